"""Fleets lose no request and no block, however requests move, and planted bugs are noticed."""

import pytest

from twofold.engine.simulate import SimulationError
from twofold.fleet.instance import Instance
from twofold.fleet.layerwise import Shipment
from twofold.fleet.simulate import simulate_fleets


def test_requests_that_wander_end_once_and_as_if_alone():
    counts = simulate_fleets(1500, seed=3)
    assert sum(counts.ended.values()) == counts.requests == 1500
    assert {"length", "cancelled"} <= set(counts.ended)
    assert counts.arrived > 200
    assert counts.given_up > 20
    assert counts.shipped > 30
    assert counts.preempted > 50


def test_equal_seeds_play_alike():
    assert simulate_fleets(500, seed=5) == simulate_fleets(500, seed=5)
    assert simulate_fleets(500, seed=6).digest != simulate_fleets(500, seed=5).digest


@pytest.mark.long
def test_many_requests():
    counts = simulate_fleets(20_000, seed=1)
    assert sum(counts.ended.values()) == 20_000


BUGS = {
    "the last stage is not copied": (Instance, "copy_rest", lambda *_: None),
    "blocks are not reclaimed": (Instance, "reclaim", lambda *_: None),
    "a layer is not sent": (Shipment, "put", lambda *_: None),
    "what was sent for nothing is kept": (Instance, "release", lambda *_: None),
}


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_noticed(bug, monkeypatch):
    monkeypatch.setattr(*BUGS[bug])
    with pytest.raises(SimulationError):
        simulate_fleets(500, seed=3)
