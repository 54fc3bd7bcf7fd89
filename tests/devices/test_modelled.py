"""Modelled devices: a pass that is remembered costs what it would cost walked through."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from twofold.devices.base import Device, StepCost
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.registry import make_technique, technique_names

ON_ONE = [name for name in technique_names() if make_technique(name).fleet_policy() is None]
PLANS: list[dict[str, Any]] = [
    {"model": "llama-3.2-1b"},
    {"model": "gpt2-124m", "device": "pim-gpt"},
    {"model": "gemma-3-270m"},
    {"model": "llama-2-70b", "parallel": {"tp": 2, "pp": 4}},
    {"model": "mixtral-8x7b", "parallel": {"tp": 2, "dp": 2, "ep": 4}},
    *({"model": "llama-3.2-1b", "techniques": [name]} for name in ON_ONE),
    {"model": "gemma-3-270m", "techniques": ["kivi"]},
]


def engine(values: dict[str, Any], *, remember: bool) -> Engine:
    plan = Plan.from_dict({"device": "h100-sxm", **values})
    device = make_device(plan.device, **plan.parallel.model_dump())
    if not remember:
        device.forward = lambda model, step: Device.forward(device, model, step)  # type: ignore[method-assign]
    return build_engine(plan, device, get_spec(plan.model))


def step(engine: Engine, spans: list[Span], num_logits: int) -> StepCost:
    engine.device.begin_step()
    engine.runner.charge(StepInput(spans, sum(s.queries for s in spans), num_logits))
    return engine.device.end_step()


def batch(random: Random) -> tuple[list[Span], int]:
    """A few shapes that recur with ever other contexts."""
    queries = [1] * random.choice([0, 2, 5]) + [random.choice([3, 64])] * random.choice([0, 1])
    queries = queries or [7]
    return [Span(q, q + random.randrange(900)) for q in queries], random.choice([0, len(queries)])


@pytest.mark.parametrize("values", PLANS, ids=lambda v: "-".join(str(x) for x in v.values()))
def test_a_remembered_pass_costs_the_same(values: dict[str, Any]) -> None:
    remembering, walking = engine(values, remember=True), engine(values, remember=False)
    random = Random(4)
    for _ in range(60):
        spans, logits = batch(random)
        mine, theirs = step(remembering, spans, logits), step(walking, spans, logits)
        assert mine.seconds == pytest.approx(theirs.seconds, rel=1e-12)
        assert mine.joules == pytest.approx(theirs.joules, rel=1e-12)
        assert mine.stages == pytest.approx(theirs.stages, rel=1e-9)
        assert mine.launches == theirs.launches > 0
    assert_same_totals(remembering.device, walking.device)
    walks = remembering.device._walks  # type: ignore[attr-defined]
    assert 1 < len(walks) <= 20, "shapes recurred"


def assert_same_totals(one: Device, other: Device) -> None:
    assert isinstance(one, ModelledDevice)
    assert isinstance(other, ModelledDevice)
    assert one.totals.keys() == other.totals.keys()
    for kind, totals in one.totals.items():
        for name in totals.__slots__:
            assert getattr(totals, name) == pytest.approx(getattr(other.totals[kind], name), rel=1e-9), kind
    assert one.bounds == pytest.approx(other.bounds, rel=1e-9)


def test_launches_are_ops_times_layers() -> None:
    """Llama: two norms, four products, rotation, cache write, attention and activation a layer."""
    cost = step(engine({"model": "llama-3.2-1b"}, remember=True), [Span(1, 10)], 1)
    around = ["embedding", "norm", "head", "sample"]
    assert cost.launches == 16 * 10 + len(around)


def test_another_model_is_walked_anew() -> None:
    small, large = engine({"model": "llama-3.2-1b"}, remember=True), get_spec("llama-3.2-3b")
    device = small.device
    first = step(small, [Span(1, 10)], 1)
    other = build_engine(Plan(model="llama-3.2-3b", device="h100-sxm"), device, large)
    assert step(other, [Span(1, 10)], 1).seconds > 1.5 * first.seconds
    assert device.totals["attention"].calls == 16 + large.num_layers


def test_a_change_of_charges_is_noticed() -> None:
    device = engine({"model": "llama-3.2-1b"}, remember=True)
    before = step(device, [Span(1, 10)], 1)
    again = step(device, [Span(1, 10)], 1)
    device.device.resident_bytes = 1  # fits the cache
    assert again.seconds == pytest.approx(before.seconds, rel=1e-12)
    assert step(device, [Span(1, 10)], 1).seconds < before.seconds
