"""Kinds of quantised checkpoints: bytes by counting, what is quantised, how it is multiplied."""

from __future__ import annotations

from typing import get_args

import pytest

from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.models.catalog import get_spec
from twofold.models.quantised import CHECKPOINTS, QuantisedScheme
from twofold.models.weights import Matrix
from twofold.plan import EnginePlan, Plan

HIDDEN, LINEARS = 4096, 6_979_321_856  # of Llama-3.1-8B: 224 linear layers


def deployed(weights: str, model: str = "llama-3.1-8b", **engine: object) -> tuple[int, list[Matrix], int]:
    """Bytes of the weights, matrices of the first layer, bytes of a cache block."""
    plan = Plan.from_dict({"model": model, "engine": {"weights": weights, **engine}})
    built = build_engine(plan, make_device("h100-sxm"), get_spec(model))
    assert built.derived["weights"] == weights
    return built.memory.weights, built.runner.model.layers[0].matrices(), built.memory.block_bytes


def test_a_plan_knows_every_kind() -> None:
    allowed = get_args(EnginePlan.model_fields["weights"].annotation)
    assert set(allowed) == {"auto", "stored", "dense", *CHECKPOINTS}


def test_fp8_halves_the_linear_layers_and_is_multiplied_so() -> None:
    dense, _, _ = deployed("dense")
    fp8, matrices, _ = deployed("fp8")
    assert dense - fp8 == LINEARS - 4 * 4 * 32  # a byte less each; a float32 scale per fused matrix
    assert {m.op(1, "bf16").compute for m in matrices} == {"fp8"}


@pytest.mark.parametrize(("kind", "bits"), [("int8wo", 8), ("int4wo-32", 5), ("int4wo-128", 4.25)])
def test_weight_only_checkpoints_are_read_narrow_and_multiplied_wide(kind: str, bits: float) -> None:
    dense, _, _ = deployed("dense")
    narrow, matrices, _ = deployed(kind)
    head = get_spec("llama-3.1-8b").vocab_size * HIDDEN
    assert dense - narrow == (LINEARS + head) * (16 - bits) / 8
    op = matrices[0].op(1, "bf16")
    assert (op.compute, op.vector_flop) == ("bf16", 2 * op.in_features * op.out_features)


def test_mxfp4_holds_the_experts_alone() -> None:
    scheme = QuantisedScheme("mxfp4-experts")
    assert scheme.applies("layers.3.experts.gate_up", 8, 8)
    assert not scheme.applies("layers.3.qkv", 8, 8)
    assert not scheme.applies("lm_head", 8, 8)
    assert not QuantisedScheme("fp8").applies("layers.3.router", 8, 8)


def test_an_fp8_cache_holds_twice_as_many_tokens() -> None:
    *_, wide = deployed("dense")
    *_, narrow = deployed("dense", cache_format="fp8")
    assert wide == 2 * narrow


def test_unknown_kinds_and_two_ways_of_storing_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'fp8'"):
        QuantisedScheme("fp-8")
    plan = Plan.from_dict(
        {"model": "llama-3.1-8b", "engine": {"weights": "fp8"}, "techniques": ["int-vs-fp"]}
    )
    with pytest.raises(ValueError, match="technique int-vs-fp both say how matrices are stored"):
        build_engine(plan, make_device("h100-sxm"), get_spec("llama-3.1-8b"))
