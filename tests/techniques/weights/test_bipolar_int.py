"""Bipolar integers: which numbers there are, the scales that are found, and what is counted."""

from __future__ import annotations

import pytest
import torch

from twofold.claims.ledger import resolve
from twofold.devices.registry import make_device
from twofold.ops.linear import BitPlaneLinear
from twofold.techniques.weights.bipolar_int import BipolarInt, round_activations


def normal(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", range(1, 9))
def test_activations_become_the_nearest_odd_numbers(bits: int) -> None:
    most = (1 << bits) - 1
    x = normal(8, 96, bits)
    values, scales = round_activations(x, bits, 32)
    assert set(values.unique().tolist()) <= set(range(-most, most + 1, 2))
    torch.testing.assert_close(scales, x.view(8, 3, 32).abs().amax(-1) / most)
    error = (values - x / scales.repeat_interleave(32, 1)).abs()
    assert error.max() <= 1.0 + 1e-4, "numbers lie two apart, and nothing is clipped"


def test_one_bit_is_sign_and_mean_magnitude() -> None:
    weight = normal(16, 64)
    wide = BipolarInt(wbits=1, group=32).weight_scheme().pack(weight, 16, 64).widen(torch.float32)
    expected = weight.view(16, 2, 32).abs().mean(-1).half().float().repeat_interleave(32, 1) * weight.sign()
    torch.testing.assert_close(wide, expected)


def test_scales_beat_those_of_the_largest_magnitude() -> None:
    weight = normal(64, 256, 1)
    errors = []
    for bits in (2, 3, 4):
        matrix = BipolarInt(wbits=bits).weight_scheme().pack(weight, 64, 256)
        most = (1 << bits) - 1
        values, scales = round_activations(weight, bits, 128)
        plain = values * scales.repeat_interleave(128, 1)
        mine = (matrix.widen(torch.float32) - weight).square().mean()
        assert mine < 0.9 * (plain - weight).square().mean(), most
        errors.append(mine)
    assert errors == sorted(errors, reverse=True)


def test_a_last_group_may_be_shorter() -> None:
    weight = normal(16, 80, 2)
    matrix = BipolarInt(wbits=6, group=64).weight_scheme().pack(weight, 16, 80)
    assert matrix.nbytes == matrix.allocated == 16 * (6 * 10 + 2 * 2)
    assert (matrix.widen(torch.float32) - weight).abs().max() < 0.1


def test_every_pair_of_planes_is_counted() -> None:
    matrix = BipolarInt(wbits=2, abits=3).weight_scheme().pack(None, 256, 512)
    op = matrix.op(4, "fp16")
    assert isinstance(op, BitPlaneLinear)
    cost = op.cost()
    assert cost.flop == 6 * 2.0 * 4 * 256 * 512
    assert cost.precision == "int1"
    assert cost.bytes_read == 256 * (2 * 64 + 4 * 2) + 4 * 512 * 2
    card = make_device("rtx-3090")
    more = BipolarInt(wbits=2, abits=6).weight_scheme().pack(None, 8192, 8192).op(4096, "fp16")
    less = BipolarInt(wbits=2, abits=3).weight_scheme().pack(None, 8192, 8192).op(4096, "fp16")
    assert 1.5 < card.charge(more, more.cost()).seconds / card.charge(less, less.cost()).seconds < 2.1


def test_units_of_wider_numbers_take_all_planes_at_once() -> None:
    card = make_device("h100-sxm")  # which multiplies no single bits
    one, many = (
        BipolarInt(wbits=bits, abits=bits).weight_scheme().pack(None, 8192, 8192).op(4096, "fp16")
        for bits in (1, 4)
    )
    seconds = [card.charge(op, op.cost()).seconds for op in (one, many)]
    assert seconds[1] < 1.2 * seconds[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"wbits": 9}, "wbits must be 1 to 8"),
        ({"abits": 0}, "abits must be 1 to 8"),
        ({"group": 512}, "group must be a multiple of 8 up to 256"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BipolarInt.from_params(params)


def test_setups_of_the_claims_run() -> None:
    for claim in BipolarInt.claims:
        assert resolve("bipolar-int", claim).ours[0] > 1.0
