"""A short workload is played several times: the run of median speed counts, the others are its intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models.tiny import tiny_gguf
from tests.report.examples import result

from twofold.jobs import run as module
from twofold.jobs.run import run_plan
from twofold.plan import Plan
from twofold.report.schema import Figure


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    model = tiny_gguf(tmp_path / "tiny.gguf")
    load = {"prompt": 64, "output": 5, "requests": 2}
    values = {"model": str(model), "device": "cpu", "workload": load, "quality": {"enabled": False}}
    return Plan.from_dict({**values, "engine": {"threads": 1}})


def test_the_median_counts_and_the_others_are_its_range() -> None:
    runs = [
        result(tokens_per_s=Figure.exact(speed, "token/s"), tpot=Figure.exact(1 / speed, "s"))
        for speed in (50.0, 80.0, 40.0)
    ]
    found = module.median_result(runs)
    assert found.tokens_per_s == Figure(low=40.0, mid=50.0, high=80.0, unit="token/s")
    assert found.tpot == Figure(low=1 / 80, mid=1 / 50, high=1 / 40, unit="s")
    assert found.memory == runs[0].memory
    assert module.median_result(runs[:1]) == runs[0]


@pytest.mark.parametrize(("long_enough", "times"), [(100.0, 3), (0.0, 1)])
def test_only_what_is_short_is_repeated(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, long_enough: float, times: int
) -> None:
    played = []
    play = module.play

    def counting(*args: Any) -> Any:
        played.append(play(*args))
        return played[-1]

    monkeypatch.setattr(module, "play", counting)
    monkeypatch.setattr(module, "LONG_ENOUGH", long_enough)
    found = run_plan(plan, repeats=3).result
    assert len(played) == times
    assert found.tokens_per_s is not None
    assert found.tokens_per_s.is_exact == (times == 1)
    # No play finds the prompts of the one before: all compute the same.
    assert found.counters["engine"]["prefix_hit_tokens"] == 0
