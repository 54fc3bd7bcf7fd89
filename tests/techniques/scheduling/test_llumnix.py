"""Llumnix's freeness: virtual usage in each of its cases, who moves, and instances that come and go."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fleet.harness import TimedModel, slow_wire, tiny_fleet

from twofold.engine.request import SamplingParams
from twofold.fleet.load import Load, Resident
from twofold.fleet.policy import Arrival, Stages
from twofold.techniques.scheduling.freeness import Freeness, freeness, freeness_with_queue, virtual_usage
from twofold.techniques.scheduling.llumnix import Llumnix


def load(*running: Resident, free: int, head: Resident | None = None, waiting: int = 0) -> Load:
    blocks = 0 if head is None else head.blocks * max(1, waiting)
    return Load(100, free, 16, 8, 0, running, running, head, waiting, blocks)


def resident(id: str, blocks: int = 10, priority: int = 0) -> Resident:
    return Resident(id, blocks, blocks * 16, 1, priority)


def test_virtual_usage_is_what_a_request_is_treated_as_using() -> None:
    two = (resident("a"), resident("b"))
    assert virtual_usage(load(*two, free=80), 500) == 20 * 16
    assert virtual_usage(load(*two, free=80, head=resident("q", 30), waiting=1), 500) == 50 * 16
    important = (resident("a", priority=-1), resident("b", priority=-1))
    assert virtual_usage(load(*important, free=80), 500) == 20 * 16 + 500


def test_freeness_is_steps_that_can_still_be_done() -> None:
    assert freeness(load(resident("a"), resident("b"), free=80), 0) == 80 * 16 / 2
    assert freeness(load(free=100), 0) == math.inf
    crowded = load(resident("a"), free=10, head=resident("q", 20), waiting=3)
    assert freeness(crowded, 0) == (10 - 20) * 16 / 2
    assert freeness_with_queue(crowded, 0) == (10 - 60) * 16 / 4


def policy(**changes: Any) -> Freeness:
    values = {"headroom": 0, "migrate_out": 50.0, "migrate_in": 50.0, "interval": 0.0, "scaling": None}
    return Freeness(3, Stages(3, 16), **{**values, **changes})


def members(*loads: Load) -> list[Any]:
    return [SimpleNamespace(load=each, decoding=each.decoding) for each in loads]


def test_the_least_important_and_shortest_request_moves_from_the_fullest_to_the_freest() -> None:
    full = load(resident("long", 40), resident("short", 8), resident("vip", 4, -1), free=5)
    some, idle = load(resident("x"), free=90), load(free=100)
    moves = policy().moves(members(some, full, idle), 1.0)
    assert [(m.id, m.source, m.target) for m in moves] == [("short", 1, 2)]
    assert policy().dispatch(Arrival("new", 10, 0), members(some, full, idle)) == 2
    assert policy().moves(members(some, some, idle), 1.0) == []


def test_instances_are_drained_and_switched_on_again() -> None:
    scaler = policy(scaling=(10.0, 60.0))
    empty, busy = load(free=100), load(resident("a"), free=100)
    assert scaler._off == {1, 2}
    full = load(*(resident(str(i)) for i in range(8)), free=1)
    scaler.moves(members(full, empty, empty), 1.0)
    assert scaler._off == {2}
    scaler.moves(members(busy, busy, empty), 2.0)
    assert len(scaler._draining) == 1
    drained = next(iter(scaler._draining))
    assert scaler.dispatch(Arrival("n", 1, 0), members(busy, busy, empty)) != drained
    # What it still runs moves away, however free it is.
    third = [empty if n == 1 - drained else busy for n in range(3)]
    assert all(m.source == drained for m in scaler.moves(members(*third), 3.0))
    gone = [empty if n == drained else busy for n in range(3)]
    scaler.moves(members(*gone), 4.0)
    assert drained in scaler._off
    assert scaler.counters["switched_off"] == 1
    assert scaler.instance_seconds > 0


def test_scaling_takes_fewer_instances_for_a_light_load() -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    items = [(0.05 * i, 40, params) for i in range(12)]
    fleet = tiny_fleet(
        "llumnix", make=TimedModel, wire=slow_wire(), instances=3, interval=0.001, scaling=True
    )
    done = fleet.play(items)
    assert len(done) == 12
    assert sum(engine.totals.steps > 0 for engine in fleet.engines) == 1


def test_wrong_parameters() -> None:
    for params, match in (
        ({"instances": 1}, "from 2 up"),
        ({"migrate_out": 70.0}, "migrate_out must be at most migrate_in"),
        ({"scale_up": 90.0}, "scale_up must be at most scale_down"),
        ({"interval": -1.0}, "0 seconds or more"),
    ):
        with pytest.raises(ValueError, match=match):
            Llumnix.from_params(params)
