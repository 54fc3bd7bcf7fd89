"""Codes survive packing, and no element is further from what its code stands for than half a scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.techniques.cache.harness import rounded

from twofold.techniques.cache.groups import BITS, dequantise, pack, quantise, unpack


def widened(x: torch.Tensor, bits: int) -> torch.Tensor:
    return dequantise(quantise(x, bits), bits)


@pytest.mark.parametrize("bits", BITS)
def test_codes_survive_packing(bits: int) -> None:
    codes = torch.randint(
        0, 2**bits, (3, 5, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits)
    )
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, 5, 32 * bits // 8)
    assert torch.equal(unpack(packed, bits), codes.float())


def test_the_first_code_is_lowest() -> None:
    assert pack(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), 2).tolist() == [0b00_11_10_01]
    codes = torch.tensor([1, 0, 2, 0, 3, 0, 0, 1], dtype=torch.uint8)
    assert pack(codes, 2).tolist() == [0b00_11_10_01, 0b01_00_00_00]
    assert pack(torch.tensor([5, 10], dtype=torch.uint8), 4).tolist() == [0b1010_0101]


@pytest.mark.parametrize("bits", BITS)
def test_equals_the_definition(bits: int) -> None:
    x = torch.randn(20, 16, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 20)[:, None]
    # A number in the middle between two codes may go either way with the order of the arithmetic.
    assert torch.allclose(widened(x, bits), rounded(x, bits), rtol=1e-6, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(BITS),
    st.lists(st.floats(-3e4, 3e4, width=32), min_size=8, max_size=8),
)
def test_error_is_at_most_half_a_scale(bits: int, numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    groups = quantise(x, bits)
    out = dequantise(groups, bits)
    top = 2**bits - 1
    ends = abs(float(x.min()) - float(groups.zero))
    ends = max(ends, abs(float(x.max()) - float(groups.zero) - top * float(groups.scale)))
    spread = max(float(x.abs().max()), 1.0)
    assert float((out - x).abs().max()) <= 0.5 * float(groups.scale) + ends + 1e-6 * spread
    # fp16 rounds the zero point and the scale by 2^-11 of themselves, or by half a subnormal step; the scale
    # is that of a range of at most twice the greatest magnitude.
    assert ends <= 3 * 2.0**-11 * spread + (top + 1) * 2.0**-25


@pytest.mark.parametrize("value", [0.0, -3.5, 1e-9, 7e4])
def test_equal_numbers_come_back(value: float) -> None:
    out = widened(torch.full((8,), value), 2)
    expected = min(value, 65504.0)
    assert torch.allclose(out, torch.full((8,), expected), rtol=2**-11, atol=1e-7)


def test_numbers_beyond_fp16_stay_finite() -> None:
    assert widened(torch.tensor([-1e6, 1e6, 0.0, 1.0]), 2).isfinite().all()
