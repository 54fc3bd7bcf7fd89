"""A comparison goes on whatever one of its rows does, and tells what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models.tiny import tiny_gguf

from twofold.jobs import compare as module
from twofold.jobs import in_turn, pays, run
from twofold.jobs.compare import compare_plan
from twofold.jobs.in_turn import Companion
from twofold.jobs.pays import Elsewhere, Place
from twofold.jobs.run import RunOutcome, play, run_plan
from twofold.plan import Plan, WorkloadPlan
from twofold.techniques.registry import technique_names

LOAD = {"prompt": 16, "output": 4, "requests": 2}
SMALL = WorkloadPlan(requests=2, prompt=64, output=8, concurrency=1)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three techniques on a tiny model, without quality."""
    values = {"model": str(tiny_gguf(tmp_path / "tiny.gguf")), "device": "cpu", "workload": LOAD}
    return Plan.from_dict(
        {
            **values,
            "techniques": ["sarathi:chunk=8,tile=8", "gemfilter:keep=200", "int-vs-fp"],
            "quality": {"enabled": False},
            "engine": {"threads": 1},
        }
    )


def test_a_technique_that_breaks_is_a_row_that_says_so(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(variant: Plan, **rest: Any) -> RunOutcome:
        if any(use.name == "sarathi" for use in variant.techniques):
            raise KeyError("no such chunk")
        return run_plan(variant, **rest)

    monkeypatch.setattr(module, "run_plan", breaking)
    seen: list[str] = []
    found = compare_plan(plan, predict_here=None, progress=lambda what, done, total: seen.append(what))
    broken, unreached, sound = found.rows
    assert broken.failed == "KeyError: 'no such chunk'"
    assert unreached.refused is not None
    assert "never reached" in unreached.refused
    assert sound.measured is not None
    assert [row.label for row in found.tradeoffs] == ["baseline", sound.label]
    assert sum(what.startswith("comparing ") for what in seen) == 4
    assert broken.beside is None
    assert sound.beside is not None
    assert found.notes[0].startswith("each row was measured in turn with the baseline")


def test_each_play_of_a_row_is_followed_by_one_of_the_baseline(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    companion = Companion.play

    def rows(engine: Any, *rest: Any) -> Any:
        order.append("+".join(technique.label for technique in engine.techniques) or "baseline")
        return play(engine, *rest)

    def beside(self: Companion) -> Any:
        order.append("beside")
        return companion(self)

    monkeypatch.setattr(run, "play", rows)
    monkeypatch.setattr(Companion, "play", beside)
    found = compare_plan(plan.model_copy(update={"techniques": plan.techniques[2:]}), predict_here=None)
    (row,) = found.rows
    assert order == [*["baseline"] * 3, *["int-vs-fp", "beside"] * 3]
    assert row.measured is not None
    assert row.beside is not None
    assert row.beside.techniques == []
    assert row.beside.tokens_per_s is not None
    assert row.measured.tokens_per_s is not None
    assert found.tradeoffs[1].tokens_per_s == row.measured.tokens_per_s.mid / row.beside.tokens_per_s.mid


def test_a_baseline_too_large_to_stay_is_measured_again_at_the_end(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_turn, "SHARE_OF_MEMORY", 0.0)
    found = compare_plan(plan.model_copy(update={"techniques": plan.techniques[2:]}), predict_here=None)
    assert found.rows[0].beside is None
    assert found.notes[0].startswith("the baseline, measured again after everything else, made ")


def test_a_baseline_that_breaks_is_no_row(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(variant: Plan, **rest: Any) -> RunOutcome:
        raise KeyError("nothing works")

    monkeypatch.setattr(module, "run_plan", breaking)
    with pytest.raises(KeyError):
        compare_plan(plan, predict_here=None)


def test_a_row_that_does_not_pay_here_is_tried_elsewhere(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pays", lambda ours, base: ours.label.startswith("int-vs-fp"))
    monkeypatch.setattr(pays, "PLACES", ())
    place = Place("t4", "gpt2-124m", SMALL)
    monkeypatch.setattr(module, "Elsewhere", lambda given: Elsewhere(given, [place]))
    found = compare_plan(plan, predict_here=None)
    sarathi, _, pays_here = found.rows
    assert [(trial.device, trial.model) for trial in sarathi.trials] == [("t4", "gpt2-124m")]
    assert pays_here.trials == []


def test_each_place_predicts_its_baseline_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    predict = pays.predict_plan

    def counting(variant: Plan, device: str, **rest: Any) -> Any:
        asked.append(tuple(use.name for use in variant.techniques))
        return predict(variant, device, **rest)

    monkeypatch.setattr(pays, "predict_plan", counting)
    elsewhere = Elsewhere(plan, [Place("t4", "gpt2-124m", SMALL), Place("h100-sxm", "gpt2-124m", SMALL)])
    for use in plan.techniques:
        trials = elsewhere.trials(plan.with_techniques((use,)), {})
        assert [trial.device for trial in trials] == ["t4", "h100-sxm"]
        assert all(trial.load.startswith("2 requests of 64 + 8 tokens") for trial in trials)
    assert asked.count(()) == 2


def test_what_fits_where_the_baseline_does_not_works_alone(plan: Plan) -> None:
    elsewhere = Elsewhere(plan, [Place("t4", "llama-3.1-8b", SMALL)])
    variants = Plan.from_dict({"techniques": ["lut-gemm", "flashattention-2"]}).techniques
    small, large = (elsewhere.trials(plan.with_techniques((use,)), {})[0] for use in variants)
    assert small.alone
    assert small.tokens_per_s is None
    assert large.refused is not None
    assert "does not fit" in large.refused


def test_the_example_of_all_techniques_names_every_one() -> None:
    """`examples/all-techniques.yaml` leaves none out."""
    plan = Plan.load(Path(__file__).parents[2] / "examples" / "all-techniques.yaml")
    assert [use.name for use in plan.techniques] == technique_names()
