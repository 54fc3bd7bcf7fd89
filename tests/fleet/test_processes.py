"""Instances in processes of their own answer as one engine does, and caches move between them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.test_engine import prompts
from tests.fleet.harness import LIMITS, wander
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.engine.request import SamplingParams
from twofold.fleet.build import build_processes
from twofold.fleet.policy import Stages
from twofold.jobs.predict import predict_plan
from twofold.jobs.run import run_plan

LONG = SamplingParams(max_tokens=40, ignore_eos=True)
EXACT = {**LIMITS, "kernels": "reference"}


LAYERWISE = {"name": "splitwise", "params": {"layerwise_tokens": 0}}


@pytest.mark.parametrize(
    "use", [{"name": "splitwise"}, LAYERWISE, {"name": "llumnix"}], ids=["splitwise", "layerwise", "llumnix"]
)
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
        if use is LAYERWISE:
            assert fleet.policy.counters["layerwise_transfers"] > 0
            # Of a request that ends with its first token, what was sent is dropped.
            one = SamplingParams(max_tokens=1, ignore_eos=True)
            assert [len(c.token_ids) for c in fleet.generate(asked, one)] == [1] * len(asked)
            assert all(instance.load.seats == LIMITS["max_num_seqs"] for instance in fleet.instances)
        fleet.check()
        done = fleet.play([(0.01 * i, p, LONG) for i, p in enumerate(asked)])
        assert len(done) == len(asked)
        assert all(r.first_token_time is not None and r.first_token_time >= r.arrival_time for r in done)
    finally:
        fleet.close()
    assert all(instance.process.poll() is not None for instance in fleet.instances)  # type: ignore[attr-defined]


@pytest.mark.parametrize("noticed", ["asked", "waited for"])
def test_a_process_that_dies_is_an_error_that_says_so(noticed: str) -> None:
    plan = tiny_plan(techniques=[{"name": "splitwise"}], engine=EXACT)
    fleet = build_processes(plan, tiny_checkpoint())
    try:
        process = fleet.instances[1].process  # type: ignore[attr-defined]
        process.kill()
        if noticed == "asked":  # nobody is there any more to send a question to
            process.wait()
        with pytest.raises(RuntimeError, match="instance 1 failed"):
            fleet.generate(prompts(2, seed=1), LONG)
    finally:
        fleet.close()


def test_a_run_over_processes_reports_what_a_run_in_one_does() -> None:
    load = {"requests": 3, "prompt": 40, "output": 120, "concurrency": 2}
    values: dict[str, Any] = {"techniques": [{"name": "splitwise"}], "workload": load}
    apart, here = (
        run_plan(tiny_plan(**values, engine={**EXACT, "processes": on}), checkpoint=tiny_checkpoint()).result
        for on in (True, False)
    )
    ours, theirs = apart.counters["splitwise"], here.counters["splitwise"]
    assert ours["prompts"] == theirs["prompts"] == theirs["transfers"] == 3
    # A request may end where its prompt was before another process comes to fetch it.
    assert 0 < ours["transfers"] <= 3
    assert 0 < ours["sent_bytes"] / ours["transfers"] <= theirs["sent_bytes"]
    for name in ("prompt_tokens", "output_tokens"):
        assert apart.counters["engine"][name] == here.counters["engine"][name] > 0
    assert {share.kind for share in apart.breakdown} == {share.kind for share in here.breakdown}
    assert apart.derived["instances"] == here.derived["instances"] == 2
    assert apart.memory.weights.mid == 2 * here.memory.weights.mid  # each has its own
    assert [t.name for t in apart.techniques] == ["splitwise"]


def test_quality_is_measured_where_the_model_lies() -> None:
    fleet = build_processes(tiny_plan(techniques=[{"name": "splitwise"}], engine=EXACT), tiny_checkpoint())
    try:
        ids = list(range(3, 60))
        torch.testing.assert_close(fleet.score(ids, 20), tiny_engine(engine=LIMITS).score(ids, 20))
    finally:
        fleet.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": "cuda"}, "run on device 'cpu'.*not 'cuda' with tp=1"),
        ({"parallel": {"tp": 2}}, "tp=1 and pp=1, not 'cpu' with tp=2"),
        ({"parallel": {"dp": 2}}, "drop parallel.dp"),
        ({"techniques": []}, "no technique of this plan is one: add splitwise or llumnix"),
        ({"techniques": ["copyspec"]}, "add splitwise or llumnix"),
        ({"techniques": ["splitwise:token_device=a10"]}, "what 'a10' would do can be predicted"),
    ],
)
def test_what_cannot_be_in_processes_is_refused_before_anything_is_built(
    changes: dict[str, Any], said: str
) -> None:
    values: dict[str, Any] = {"techniques": ["splitwise"], **changes}
    with pytest.raises(ValueError, match=said):
        run_plan(tiny_plan(**values, engine={**EXACT, "processes": True}), checkpoint=tiny_checkpoint())


def test_what_a_process_finds_wrong_is_said_as_in_one_process() -> None:
    plan = tiny_plan(techniques=["splitwise"], engine={**EXACT, "memory": 1000})
    with pytest.raises(ValueError, match="does not fit on cpu"):
        build_processes(plan, tiny_checkpoint())


def test_one_engine_refuses_processes() -> None:
    with pytest.raises(ValueError, match="this is one engine"):
        tiny_engine(engine={"processes": True})


def test_a_prediction_is_the_same_with_and_without() -> None:
    found = [
        predict_plan(
            tiny_plan(techniques=["splitwise"], engine={**LIMITS, "processes": on}),
            "a10",
            spec=tiny_checkpoint().spec,
        )
        for on in (True, False)
    ]
    assert found[0].ttft == found[1].ttft
    assert found[0].counters == found[1].counters
