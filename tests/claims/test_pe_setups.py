"""Setups of machines made of processing elements: their products are those of the models, no claim is listed
twice."""

from __future__ import annotations

import pytest

from twofold.claims.collect import all_claims, machine_claims
from twofold.claims.setups import had, mixpe, olive
from twofold.claims.setups.block_products import products, spent
from twofold.devices.machines.fp16_array import Fp16Array
from twofold.devices.machines.had import Had
from twofold.devices.machines.mixpe import MixPe
from twofold.devices.machines.olive import Olive
from twofold.devices.machines.standard_attention import StandardAttention
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.weights.smoothquant import SmoothQuant


@pytest.mark.parametrize("name", ["opt-6.7b", "llama-2-13b"])
def test_products_are_those_of_a_step(name: str) -> None:
    """All blocks together take what the engine charges for a step's products, the logits left out."""
    spec, machine = get_spec(name), Fp16Array()
    model = build_model(spec, ModelOptions(precision="fp16"))
    machine.begin_step()
    model.forward(StepInput([Span(1, 16)] * 8, num_tokens=8, num_logits=0), machine)
    machine.end_step()
    step = machine.totals["linear"]
    mine = spent(Fp16Array(), spec, None, 8)
    assert step.seconds == pytest.approx(mine.seconds, rel=1e-6)
    assert step.joules == pytest.approx(mine.joules - machine.idle_watts * mine.seconds, rel=1e-6)


def test_products_are_stored_as_the_technique_says() -> None:
    """8 bits a weight, of as many weights."""
    dense, packed = (products(get_spec("opt-6.7b"), t, 1) for t in (None, SmoothQuant()))
    assert [op.cost().flop for op in dense] == [op.cost().flop for op in packed]
    assert sum(op.weight_bytes for op in packed) < 0.52 * sum(op.weight_bytes for op in dense)


def test_claims_are_listed_once() -> None:
    """A technique's hardware adds no rows of its own, but its page shows them."""
    keys = [(group.system, claim.key) for group in all_claims() for claim in group.claims]
    assert len(keys) == len(set(keys))
    assert {claim.key for claim in machine_claims("had")} == {"had-area", "had-power"}
    assert [group.kind for group in all_claims("mixpe")] == ["device"]


def test_headlines_are_those_of_the_rows() -> None:
    """What the sensitivities move is what the ledger states, for one model."""
    low, high = mixpe.speedup().ours
    assert low <= mixpe.headline(MixPe()) <= high
    low, high = olive.speedup_over_gobo().ours
    assert low <= olive.headline(Olive()) <= high
    assert had.headline(Had()) == had.area().ours[0]
    saved = 1 - Had().block_watts / StandardAttention().block_watts
    assert had.power().ours == (saved, saved)
