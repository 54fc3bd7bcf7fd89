"""Fleets answer as one engine does, schedule alike on real and modelled devices, and lose nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.engine.test_engine import prompts
from tests.fleet.harness import TimedCpu, TimedModel, slow_wire, tiny_fleet, wander
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.engine.request import SamplingParams
from twofold.fleet.build import build_fleet
from twofold.fleet.fleet import Fleet
from twofold.fleet.policy import Stages
from twofold.techniques.registry import make_technique, technique_names

LONG = SamplingParams(max_tokens=24, ignore_eos=True)
STAGES = Stages(4, 1)
FLEETS: dict[str, dict[str, Any]] = {
    # Some prompts are shorter, and go at once; others layer by layer.
    "splitwise": {"prompt": 1, "token": 2, "layerwise_tokens": 30},
    # Between the freeness of a full instance and that of a less full one.
    "llumnix": {"instances": 2, "interval": 0.0, "migrate_out": 300.0, "migrate_in": 300.0},
    "wanderers": {},
}


def fleet_of(name: str, **rest: Any) -> Fleet:
    if name != "wanderers":
        return tiny_fleet(name, **FLEETS[name], **rest)
    return wander(tiny_fleet("llumnix", instances=3, **rest), stages=STAGES)


def moves_of(fleet: Fleet) -> int:
    return len(fleet.downtimes)


@pytest.mark.parametrize("name", sorted(FLEETS))
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_answers_are_those_of_one_engine_also_when_requests_move_in_the_middle(
    name: str, family: str
) -> None:
    asked = prompts(9, seed=5)
    # Under a virtual clock with a slow wire, copies take several steps.
    fleet = fleet_of(name, family=family, make=TimedCpu, wire=slow_wire())
    got = [c.token_ids for c in fleet.generate(asked, LONG)]
    assert got == [c.token_ids for c in tiny_engine(family).generate(asked, LONG)]
    assert moves_of(fleet) > 0
    assert fleet.sent_bytes > 0
    if name == "splitwise":
        layerwise = fleet.policy.counters["layerwise_transfers"]
        assert 0 < layerwise < moves_of(fleet)
        assert 0 < fleet.policy.counters["overlapped_bytes"] < fleet.sent_bytes
    fleet.check()
    if name != "wanderers":
        fleet.check_techniques()


def test_a_request_moves_in_stages_while_it_is_answered() -> None:
    fleet = fleet_of("wanderers", make=TimedCpu, wire=slow_wire())
    stages = []
    account = fleet._account

    def noted(migration: Any) -> None:
        account(migration)
        if migration.arrived:
            stages.append((migration.stage, migration.downtime))

    fleet._account = noted  # type: ignore[method-assign]
    fleet.generate([list(range(3, 120))], SamplingParams(max_tokens=130, ignore_eos=True))
    assert max(count for count, _ in stages) >= 2
    # A cache of 117 tokens and more is eight blocks and more; the last stage copies two of them at most.
    assert all(downtime < 2 * 0.004 + 0.001 for _, downtime in stages)
    assert fleet.sent_bytes >= 8 * fleet.instances[0].block_bytes * len(stages)


@pytest.mark.parametrize("name", sorted(FLEETS))
@pytest.mark.parametrize("turns", [False, True])
def test_the_schedule_does_not_depend_on_the_device(name: str, turns: bool) -> None:
    asked = prompts(10, seed=5)
    logs = []
    for make in (TimedCpu, TimedModel):
        fleet = fleet_of(name, make=make, wire=slow_wire(), engine={"cache_blocks": 12})
        fleet.taking_turns = turns
        log: list[Any] = []
        for number, engine in enumerate(fleet.engines):
            schedule = engine.scheduler.schedule

            def recorded(now: float, number: int = number, schedule: Any = schedule, log: Any = log) -> Any:
                batch = schedule(now)
                entries = [(e.request.id, e.start, e.num_tokens, e.slot) for e in batch.entries]
                log.append((number, round(now, 9), entries))
                return batch

            engine.scheduler.schedule = recorded  # type: ignore[method-assign]
        real = make is TimedCpu
        fleet.play([(0.002 * i, p if real else len(p), LONG) for i, p in enumerate(asked)])
        logs.append((log, fleet.policy.counters, moves_of(fleet)))
    assert logs[0] == logs[1]
    assert logs[0][2] > 0


def test_instances_share_their_weights_and_count_their_own_bytes() -> None:
    fleet = tiny_fleet("llumnix", instances=2)
    first, second = fleet.engines
    mine, theirs = first.runner.model.layers[0], second.runner.model.layers[0]
    assert mine.attention is not None
    assert theirs.attention is not None
    assert mine.attention.qkv is theirs.attention.qkv
    assert mine.attention.cache is not theirs.attention.cache
    for engine in fleet.engines:
        assert engine.runner.model.weight_bytes() == engine.runner.model.allocated()
        assert sum(c.allocated for c in engine.runner.caches) == engine.memory.cache


def test_what_cannot_be_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"works on several instances.*twofold run"):
        tiny_engine(techniques=[{"name": "llumnix"}])
    checkpoint = tiny_checkpoint()
    plan = tiny_plan(techniques=[{"name": "llumnix"}], parallel={"dp": 2})
    with pytest.raises(ValueError, match=r"drop parallel.dp"):
        build_fleet(plan, checkpoint.spec, checkpoint)
    plan = tiny_plan(techniques=[{"name": "splitwise", "params": {"token_device": "a10"}}])
    with pytest.raises(ValueError, match="can be predicted"):
        build_fleet(plan, checkpoint.spec, checkpoint)
    plan = tiny_plan(techniques=[{"name": "splitwise"}, {"name": "llumnix"}])
    with pytest.raises(ValueError, match="name one technique over several instances"):
        build_fleet(plan, checkpoint.spec, checkpoint)
    with pytest.raises(ValueError, match="instances must be a whole number from 2 up"):
        tiny_fleet("llumnix", instances=1)


def test_techniques_that_drop_entries_are_refused_beside_moves() -> None:
    checkpoint = tiny_checkpoint()
    dropping = [name for name in technique_names() if make_technique(name).retention() is not None]
    assert {"h2o", "snapkv", "streaming-llm"} <= set(dropping)
    for name in ("splitwise", "llumnix"):
        for other in dropping:
            plan = tiny_plan(techniques=[{"name": name}, {"name": other}])
            with pytest.raises(ValueError, match=r"cannot be sent while|keeps a part of it elsewhere"):
                build_fleet(plan, checkpoint.spec, checkpoint)


def test_a_move_is_given_up_where_the_target_has_no_room() -> None:
    name = "splitwise"
    fleet = tiny_fleet(name, make=TimedCpu, wire=slow_wire(), engine={"cache_blocks": 6})
    asked = prompts(10, seed=4, longest=60)
    got = [c.token_ids for c in fleet.generate(asked, LONG)]
    assert got == [c.token_ids for c in tiny_engine().generate(asked, LONG)]
    assert any(engine.scheduler.num_preempted for engine in fleet.engines) or moves_of(fleet) < len(asked)
    fleet.check()


class Undecided:
    """A migration that waits for the end of a step of `source`."""

    due, stopped, arrived = -math.inf, False, None

    def __init__(self, source: Any) -> None:
        self.source = source

    def advance(self, now: float) -> None:
        """Nothing to do yet."""


def test_a_move_that_waits_for_a_step_which_has_ended_goes_on() -> None:
    fleet = tiny_fleet("splitwise")
    fleet._migrations["r"] = Undecided(fleet.instances[0])  # type: ignore[assignment]
    assert not fleet.instances[0].has_work
    assert fleet.advance() <= fleet.clock.now(), "nobody would look at it again"
