"""Costs of long contexts and the sessions that come of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from twofold.analysis.longctx import ContextCost, SessionLoad, context_cost, sessions
from twofold.analysis.longctx_sweep import pictures, sweep
from twofold.analysis.peak import PeakDevice, peak_device
from twofold.devices.catalog import get_device
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.plan import Plan

PLAN = Plan.from_dict(
    {"model": "llama-3.1-8b", "device": "a100-80g-sxm", "workload": {"prompt": 16, "output": 16}}
)
COST = ContextCost(1000, 100, 4, prefill=2.0, decode=1.0, decode_batch=1.3, switch=0.1, parked=100)
BUSY = SessionLoad(users=50, rounds=3, output=10, think=10.0)


def test_costs_follow_from_peaks() -> None:
    spec = get_spec("llama-3.1-8b")
    predictor = StepPredictor(PLAN, peak_device("a100-80g-sxm"))
    cost = context_cost(predictor, 16_000, 256)
    per_token = 2 * spec.kv_elements_per_token * spec.num_layers
    assert cost.cache_bytes == 16_256 * per_token
    assert cost.concurrency == predictor.max_seqs(16_256)
    weights = 2 * (spec.num_parameters() - spec.vocab_size * spec.hidden)
    assert cost.decode == pytest.approx(256 * (weights + per_token * 16_128) / 2039e9, rel=0.03)
    assert cost.prefill > 16_000 * 2 * weights / 2 / 312e12
    assert cost.switch == pytest.approx(2 * cost.cache_bytes / 31.5e9)
    assert cost.parked == int(256e9) // cost.cache_bytes
    assert cost.decode < cost.decode_batch < cost.concurrency * cost.decode


def test_longer_contexts_cost_more_and_fit_less() -> None:
    found = sweep(PLAN, [4096, 32768, 16384, 4096], SessionLoad(), get_spec("llama-3.1-8b"))
    costs = [row.cost for row in found.rows]
    assert [cost.context for cost in costs] == [4096, 16384, 32768]
    for short, long in pairwise(costs):
        assert long.prefill > 2 * short.prefill
        assert long.decode > short.decode
        assert long.concurrency < short.concurrency
        assert long.switch is not None
        assert short.switch is not None
        assert long.switch > short.switch
    assert found.confidence in ("datasheet", "not validated")
    assert all(row.prefill.low < row.cost.prefill == row.prefill.mid < row.prefill.high for row in found.rows)
    peak = sweep(PLAN, [4096], SessionLoad(), get_spec("llama-3.1-8b"), peak=True)
    assert peak.confidence == "theoretical peak"
    assert peak.rows[0].prefill.is_exact
    assert [picture.svg[:4] for picture in pictures(found.rows)] == ["<svg", "<svg"]


def test_few_users_are_the_limit_many_swap() -> None:
    few = sessions(COST, replace(BUSY, users=1))
    assert few is not None
    assert (few.bound, few.swapping) == ("users", False)
    assert few.per_hour == pytest.approx(3600 / (2.0 + 3 * (1.0 + 10.0)))
    many = sessions(COST, BUSY)
    assert many is not None
    assert (many.bound, many.swapping) == ("device", True)
    assert many.per_hour == pytest.approx(3600 / (2.0 + 3 * (1.3 / 4 + 0.1)))
    assert many.busy == pytest.approx(1)
    assert few.busy < 1


def test_users_meet_the_device_where_both_bounds_cross() -> None:
    found = sessions(COST, BUSY)
    assert found is not None
    below = sessions(COST, replace(BUSY, users=int(found.enough_users)))
    above = sessions(COST, replace(BUSY, users=int(found.enough_users) + 1))
    assert below is not None
    assert above is not None
    assert (below.bound, above.bound) == ("users", "device")


def test_without_room_there_are_no_sessions() -> None:
    assert sessions(replace(COST, concurrency=0), BUSY) is None
    assert sessions(replace(COST, switch=None, parked=None), BUSY) is None
    assert sessions(replace(COST, parked=10), BUSY) is None
    assert sessions(replace(COST, switch=None, parked=None), replace(BUSY, users=4)) is not None


def test_a_device_without_host_memory_cannot_switch() -> None:
    file = get_device("a100-80g-sxm").model_copy(update={"host": None, "disk": None})
    cost = context_cost(StepPredictor(PLAN, PeakDevice(file)), 4096, 16)
    assert cost.switch is None
    assert cost.parked is None


def test_wrong_loads_and_contexts_say_so() -> None:
    with pytest.raises(ValueError, match="users must be at least 1"):
        SessionLoad(users=0)
    with pytest.raises(ValueError, match="think must be seconds"):
        SessionLoad(think=-1.0)
    with pytest.raises(ValueError, match="is more than the 131,072"):
        context_cost(StepPredictor(PLAN, "a100-80g-sxm"), 131_000, 100)
