"""Steps without a scheduler cost what the engine charges, and memory is counted."""

from __future__ import annotations

from typing import Any

import pytest

from twofold.devices.base import StepCost
from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.memory import DoesNotFitError
from twofold.engine.request import SamplingParams
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.plan import Plan

MODEL = "llama-3.2-1b"


@pytest.mark.parametrize("changes", [{}, {"techniques": ["kivi"]}, {"parallel": {"pp": 2}}])
def test_a_step_costs_what_the_engine_charges(changes: dict[str, Any]) -> None:
    plan = Plan.from_dict({"model": MODEL, "device": "h100-sxm", **changes})
    device = make_device("h100-sxm", **plan.parallel.model_dump())
    engine = build_engine(plan, device, get_spec(MODEL))
    charged: list[tuple[list[Span], int, StepCost]] = []
    forward, end = device.forward, device.end_step

    def noted_forward(model: Any, step: StepInput) -> None:
        charged.append((list(step.spans), step.num_logits, StepCost()))
        forward(model, step)

    def noted_end() -> StepCost:
        cost = end()
        charged[-1] = (*charged[-1][:2], cost)
        return cost

    device.forward, device.end_step = noted_forward, noted_end  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    engine.play([(0.0, 3000, params), (0.001, 64, params), (0.002, 700, params)])
    assert len(charged) > 40
    assert len({len(spans) for spans, _, _ in charged}) > 1
    predictor = StepPredictor(plan, "h100-sxm")
    for spans, logits, cost in charged:
        assert predictor.step(spans, logits).seconds == pytest.approx(cost.seconds, rel=1e-12)


def test_the_host_s_part_counts() -> None:
    plain, served = (
        StepPredictor(Plan.from_dict({"model": MODEL, "engine": {"serving": s}}), "h100-sxm")
        for s in ("plain", "vllm-sync")
    )
    host = served.engine.host
    assert host is not None
    for spans, prompts in (([Span(1, 100)] * 4, 0), ([Span(1, 100), Span(64, 64)], 1)):
        tokens = sum(s.queries for s in spans)
        expected = host.step(plain.step(spans), len(spans), tokens, prompts)
        assert served.step(spans) == expected
        assert expected.seconds > plain.step(spans).seconds


def test_every_sequence_wants_logits_by_default() -> None:
    predictor = StepPredictor(Plan(model=MODEL), "h100-sxm")
    spans = [Span(1, 100), Span(64, 64)]
    assert predictor.step(spans) == predictor.step(spans, 2)
    assert predictor.step(spans).launches > predictor.step(spans, 0).launches
    with pytest.raises(ValueError, match="at least one sequence"):
        predictor.step([])


def test_sequences_are_counted_in_blocks() -> None:
    predictor = StepPredictor(Plan.from_dict({"model": MODEL, "engine": {"cache_blocks": 100}}), "h100-sxm")
    assert predictor.limits.block_size == 16
    assert [predictor.max_seqs(n) for n in (1, 16, 17, 160, 1600, 1601)] == [100, 100, 50, 10, 1, 0]


def test_a_packed_cache_holds_more_sequences() -> None:
    dense, packed = (StepPredictor(Plan.from_dict({"model": MODEL, "techniques": t}), "h100-sxm")
                     for t in ([], ["kivi"]))  # fmt: skip
    assert 3 < packed.max_seqs(8192) / dense.max_seqs(8192) < 16
    memory = dense.memory
    per_token = 16 * 2 * 8 * 64 * 2
    left = memory.capacity - memory.weights - memory.activations
    assert dense.max_seqs(8192) == left // (8192 * per_token)


def test_a_device_of_ones_own_is_taken() -> None:
    device = make_device("h100-sxm")
    assert isinstance(device, ModelledDevice)
    plan = Plan(model=MODEL)
    own = StepPredictor(plan, device, spec=get_spec("llama-3.2-1b"))
    assert own.device is device
    assert own.step([Span(1, 5)]) == StepPredictor(plan, "h100-sxm").step([Span(1, 5)])


def test_what_cannot_be_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match="real device"):
        StepPredictor(Plan(model=MODEL), "cpu")
    with pytest.raises(DoesNotFitError):
        StepPredictor(Plan(model="llama-3.1-405b"), "rtx-4090")
