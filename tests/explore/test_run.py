"""The whole exploration: winners, reasons, report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.explore.spaces import exploration

from twofold.explore import confirm
from twofold.explore.outcome import ExplorationResult
from twofold.explore.run import explore
from twofold.report import exploration as report
from twofold.report.schema import Result

SLO = {"ttft_p90": "300 ms", "tpot_p90": "15 ms"}


@pytest.fixture(scope="module")
def found() -> ExplorationResult:
    return explore(exploration(slo=SLO, winners=3), jobs=1)


def test_winners_are_simulated_and_keep_their_limits(found: ExplorationResult) -> None:
    assert found.best is not None
    assert found.judged == found.space == len(found.candidates)
    for winner in found.winners:
        assert abs(winner.differences["tokens_per_s"]) < 0.15
        assert winner.broken or winner.figures.tpot["p90"] <= 0.015
        assert not winner.broken or "ttft_p90" in winner.broken[0] or "tpot_p90" in winner.broken[0]
    kept = [winner.objectives["cost"].mid for winner in found.winners if not winner.broken]
    assert kept == sorted(kept)


def test_reasons_are_given(found: ExplorationResult) -> None:
    said = " ".join(found.explanation)
    assert "Best in cost" in said
    assert "bound" in said
    bound = sum(count.candidates for count in found.constraints)
    assert bound + sum(not row.constraint for row in found.candidates) == found.judged
    assert all(count.meaning for count in found.constraints)


def test_the_report_is_one_page(found: ExplorationResult, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report.write(found, path)
    page = path.read_text()
    assert page.count("<svg") == len(found.objectives) - 1
    for heading in ("Winners", "The estimate held against the simulation", "What bound the candidates"):
        assert f"<h2>{heading}</h2>" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://", "http")[:2000]


def test_it_survives_json(found: ExplorationResult) -> None:
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert ExplorationResult.model_validate_json(text).explanation == found.explanation


def test_a_simulation_that_breaks_a_limit_is_no_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = confirm.broken_limits
    first: list[object] = []

    def breaking(slo: object, figures: object) -> list[str]:
        first.append(figures)
        return ["tpot_p90: broken for the test"] if len(first) == 1 else honest(slo, figures)  # type: ignore[arg-type]

    monkeypatch.setattr(confirm, "broken_limits", breaking)
    found = explore(exploration(objectives=["cost"], winners=1), jobs=1)
    assert len(found.winners) == 2
    assert found.winners[-1].broken
    assert found.best is found.winners[0]
    assert "not in the simulation" in " ".join(found.explanation)


def test_nothing_that_works_says_so() -> None:
    found = explore(exploration(slo={"tpot_p90": "1 us"}), jobs=1)
    assert found.winners == []
    assert found.best is None
    assert "No candidate meets" in found.explanation[0]
    assert "<h1>" in report.render(found)


def test_a_real_device_is_refused() -> None:
    with pytest.raises(ValueError, match="this-cpu"):
        explore(exploration(devices=["cpu"]), jobs=1)


def test_only_this_machine_is_run(found: ExplorationResult) -> None:
    measured = confirm.measure(found.winners[0], exploration().plan)
    assert measured.measured is None
    assert "is not this machine" in measured.not_measured


def test_intervals_that_overlap_make_the_order_unsure(found: ExplorationResult) -> None:
    winner = found.winners[0]
    mid = winner.objectives["cost"].mid
    wide = winner.objectives["cost"].model_copy(update={"low": mid / 2, "high": mid * 2})
    near = winner.model_copy(update={"number": 10_000, "objectives": {"cost": wide}})
    one = winner.model_copy(update={"objectives": {"cost": wide}})
    assert confirm._unsure(one, [one, near], "cost") == [10_000]
    assert isinstance(one.simulated, Result)
