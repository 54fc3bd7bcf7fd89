"""Instances in processes of their own answer as one engine does, and caches move between them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.test_engine import prompts
from tests.fleet.harness import LIMITS, wander
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.engine.request import SamplingParams
from twofold.fleet.build import build_processes
from twofold.fleet.policy import Stages

LONG = SamplingParams(max_tokens=40, ignore_eos=True)
EXACT = {**LIMITS, "kernels": "reference"}


@pytest.mark.parametrize("use", [{"name": "splitwise"}, {"name": "llumnix"}], ids=lambda use: use["name"])
def test_answers_are_those_of_one_engine(use: dict[str, Any]) -> None:
    fleet = build_processes(tiny_plan(techniques=[use], engine=EXACT), tiny_checkpoint())
    try:
        if use["name"] == "llumnix":
            wander(fleet, stages=Stages(4, 1))
        asked = prompts(8, seed=5)
        got = [c.token_ids for c in fleet.generate(asked, LONG)]
        assert got == [c.token_ids for c in tiny_engine(engine=LIMITS).generate(asked, LONG)]
        assert fleet.downtimes
        assert fleet.sent_bytes > 0
        fleet.check()
        done = fleet.play([(0.01 * i, p, LONG) for i, p in enumerate(asked)])
        assert len(done) == len(asked)
        assert all(r.first_token_time is not None and r.first_token_time >= r.arrival_time for r in done)
    finally:
        fleet.close()
    assert all(instance.process.poll() is not None for instance in fleet.instances)  # type: ignore[attr-defined]


def test_a_process_that_dies_is_an_error_that_says_so() -> None:
    plan = tiny_plan(techniques=[{"name": "splitwise"}], engine=EXACT)
    fleet = build_processes(plan, tiny_checkpoint())
    try:
        fleet.instances[1].process.kill()  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="instance 1 failed"):
            fleet.generate(prompts(2, seed=1), LONG)
    finally:
        fleet.close()


def test_other_devices_are_refused() -> None:
    plan = tiny_plan(techniques=[{"name": "splitwise"}], device="cuda")
    with pytest.raises(ValueError, match="run on device 'cpu'"):
        build_processes(plan, tiny_checkpoint())
