"""MixPE: what its arithmetic rests on is exact, and what it gains is what it should."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from twofold.devices.machines.fp16_array import Fp16Array
from twofold.devices.machines.int8_array import Int8Array
from twofold.devices.machines.mixpe import SUM_BITS, WEIGHT_BITS, MixPe
from twofold.devices.machines.mixpe_a16 import MixPeA16
from twofold.kernels.registry import REFERENCE
from twofold.ops import Linear
from twofold.techniques.weights.bipolar_int import BipolarInt
from twofold.techniques.weights.gptq import Gptq
from twofold.techniques.weights.int_vs_fp import IntVsFp
from twofold.techniques.weights.olive import Olive
from twofold.techniques.weights.smoothquant import SmoothQuant

GROUP = 128


def codes(low: int, high: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def shifted_and_added(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums [T, O, groups] of products of inputs [T, G, g] and 4-bit weights [O, G, g]: for each bit of a
    weight the shifted input, or nothing."""
    total = torch.zeros(inputs.shape[0], weights.shape[0], inputs.shape[1], dtype=torch.int64)
    for bit in range(WEIGHT_BITS):
        chosen = (weights >> bit) & 1
        total += torch.einsum("tgi,ogi->tog", inputs << bit, chosen)
    return total


def test_scale_and_zero_point_may_come_after_the_product() -> None:
    """Integers: applying what a group shares to its sum equals applying it to each of its weights."""
    inputs, weights = codes(-128, 128, 5, 3, GROUP), codes(0, 16, 7, 3, GROUP, seed=1)
    zeros, scales = codes(0, 16, 7, 3, seed=2), codes(1, 1000, 7, 3, seed=3)
    after = (shifted_and_added(inputs, weights) - inputs.sum(-1)[:, None] * zeros) * scales
    before = torch.einsum("tgi,ogi->to", inputs, (weights - zeros[..., None]) * scales[..., None])
    assert torch.equal(after.sum(-1), before)


def test_sums_of_a_group_fit() -> None:
    """The largest sum of 128 products of 4 unsigned and 8 signed bits needs no more than the adder has."""
    largest = GROUP * 15 * 128
    assert largest < 2 ** (SUM_BITS - 1)
    assert 2 * largest >= 2 ** (SUM_BITS - 2), "no bit to spare but one"


def test_the_engine_scales_after_the_product_exactly() -> None:
    """W4A8 in the engine: integer sums of each group, then scales. Where scales are powers of two it equals
    the product of widened numbers to the last bit."""
    weight = (2 * codes(-8, 8, 32, 2 * GROUP, seed=4) + 1).float()
    matrix = BipolarInt(wbits=4, abits=8, group=GROUP).weight_scheme().pack(weight, 32, 2 * GROUP)
    matrix.tensors["factors"][:] = torch.exp2(codes(-3, 1, *matrix.tensors["factors"].shape, seed=5).float())
    x = (2 * codes(-128, 128, 6, 2 * GROUP, seed=6) + 1).float()
    x[:, ::GROUP] = 255.0  # the largest code of each group, whose scale is then one
    op = matrix.op(6, "fp32")
    got = REFERENCE[type(op)](op, x, matrix)
    assert torch.equal(got.double(), F.linear(x.double(), matrix.widen(torch.float64)))


def product(technique: object, tokens: int) -> Linear:
    op: Linear = technique.weight_scheme().pack(None, 4096, 4096).op(tokens, "bf16")  # type: ignore[attr-defined]
    return op


def test_weights_of_four_bits_take_one_element() -> None:
    """Twice as fast as of eight, at half the energy of the array."""
    machine = MixPe()
    four, eight = (machine.linear(product(t, 512)) for t in (BipolarInt(), SmoothQuant()))
    assert eight.seconds / four.seconds == pytest.approx(2, rel=0.05)
    assert eight.joules["array"] / four.joules["array"] == pytest.approx(2)


def test_an_element_is_smaller_and_spends_less_than_one_of_eight_bits() -> None:
    """But not by the four times that equal areas of both arrays would ask for."""
    mixpe, integers = MixPe().element, Int8Array().element
    assert 0.25 < mixpe.area / integers.area < 0.75
    assert mixpe.joules < integers.joules


def test_small_groups_cost_more_scaling() -> None:
    """A sum for each 32 weights keeps the lanes busier than the array, one for each 128 does not."""
    small = MixPe().linear(product(IntVsFp("mxint4", activations="mxint8"), 512))
    large = MixPe().linear(product(BipolarInt(group=128), 512))
    assert (small.bound, large.bound) == ("vector", "array")


def test_sixteen_bit_activations_need_no_wide_weights() -> None:
    """GPTQ's weights: no lane widens them, while an array of floats waits for its lanes at one token."""
    op = product(Gptq(), 1)
    mine, floats = MixPeA16(), Fp16Array()
    assert mine.around(op) < floats.around(op) / 100
    assert mine.linear(op).joules["vector"] < floats.linear(op).joules["vector"] / 50
    assert mine.element.area < floats.element.area


def test_pairs_are_refused() -> None:
    """Outlier-victim pairs have decoders elsewhere."""
    op = product(Olive(), 1)
    with pytest.raises(ValueError, match="move the plan to the machine olive"):
        MixPe().linear(op)
