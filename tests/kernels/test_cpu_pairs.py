"""Strips of outlier-victim pairs and their products on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from twofold.kernels.cpu import native
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.cpu.linear import linear
from twofold.kernels.reference.linear import linear as reference
from twofold.techniques.weights.olive import Olive
from twofold.techniques.weights.outlier_victim import FLINT4, INT4, INT8, PairType, round_to_pairs
from twofold.techniques.weights.ovp_matrix import OvpMatrix

NATIVE = native()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native kernels are not built")
ISAS = NATIVE.supported_isas() if NATIVE is not None else []
TYPES = {"int": INT4, "flint": FLINT4, "int8": INT8}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


def heavy(rows: int, cols: int, seed: int) -> torch.Tensor:
    """Normal, with a few values far out, some of them side by side."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator)
    far = torch.rand(rows, cols, generator=generator) < 0.05
    return torch.where(far, x * 8, x)


def matrix(kind: str, weight: torch.Tensor, *, strips: bool = True) -> OvpMatrix:
    technique = Olive(wbit=8, abit=0) if kind == "int8" else Olive(abit=0, mode=kind)
    found = technique.weight_scheme().pack(weight, *weight.shape)
    if strips:
        found.interleave()
        assert set(found.tensors) == {"packed", "scales"}
    return found


def product(weight: OvpMatrix, x: torch.Tensor, **how: Any) -> torch.Tensor:
    out = linear(CpuContext(NATIVE, 2), weight.op(len(x), "fp32"), x, weight, how.get("bias"))
    assert isinstance(out, torch.Tensor)
    return out


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("rows", "cols"), [(16, 32), (48, 416)])
def test_strips_take_the_same_bytes_and_give_back_the_same_values(kind: str, rows: int, cols: int) -> None:
    plain, strips = (matrix(kind, heavy(rows, cols, 1), strips=s) for s in (False, True))
    assert torch.equal(strips.widen(torch.float32), plain.widen(torch.float32))
    assert strips.allocated == strips.nbytes == plain.allocated == plain.nbytes


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("activations", [None, *TYPES])
def test_products_equal_the_reference_product(isa: str, kind: str, activations: str | None) -> None:
    weight, bias = heavy(48, 416, 2), torch.randn(48)
    plain, strips = (matrix(kind, weight, strips=False) for _ in range(2))
    if activations is not None:
        plain.activations = strips.activations = (TYPES[activations], 0.3)
    strips.interleave()
    for tokens in (1, 9):
        x = heavy(tokens, 416, 3)
        wide, seen = plain.widen(torch.float64), plain.prepare(x).double()
        expected, scale = seen @ wide.T + bias, seen.abs() @ wide.abs().T + bias.abs()
        assert ((product(strips, x, bias=bias) - expected).abs() <= 3e-6 * scale).all(), (isa, kind)
        op = plain.op(tokens, "fp32")
        torch.testing.assert_close(reference(op, x, strips), reference(op, x, plain))


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_rounding_is_that_of_the_reference(isa: str, kind: PairType) -> None:
    edges = [kind.normal, kind.threshold, kind.least, kind.most, 0.5, 1.5, 4.5, 5.0, 7.0, 12.0, 14.0, 1e9]
    values = torch.tensor([s * e * f for e in edges for s in (1, -1) for f in (1.0, 0.999999, 1.000001)])
    pairs = torch.cartesian_prod(values, values).flatten()
    x = torch.cat((pairs, heavy(1, 4096, 4)[0] * kind.normal))
    x = x[: len(x) // 32 * 32].reshape(1, -1).contiguous()
    for scale in (1.0, 0.25, 0.3):
        y = torch.empty_like(x)
        NATIVE.round_pairs(NATIVE.Stream(2), kind.name, scale, x.data_ptr(), 1, x.shape[1], y.data_ptr())
        assert torch.equal(y, round_to_pairs(x, kind, scale))


@pytest.mark.parametrize("kind", TYPES.values(), ids=TYPES)
def test_codes_and_errors_are_those_of_the_reference(kind: PairType) -> None:
    x = heavy(32, 128, 5)
    scales = x.abs().mean(-1) * 2 / kind.normal
    rounded = kind.round(x / scales[:, None])
    assert torch.equal(kind.pack(x, scales), kind.encode(rounded))
    expected = (rounded * scales[:, None] - x).square().mean(-1)
    torch.testing.assert_close(kind.errors(x, scales), expected)


def test_wrong_arguments_are_refused() -> None:
    stream = NATIVE.Stream(1)
    with pytest.raises(ValueError, match="no outlier-victim pairs"):
        NATIVE.pair_linear(stream, "ovp-int5", 0, 0, 16, 32, 0, 1, 0, 0, 0.0)
    with pytest.raises(ValueError, match="only pairs of int4"):
        NATIVE.pair_linear(stream, "ovp-int8", 0, 0, 16, 32, 0, 1, 0, 0, 1.0)
    with pytest.raises(ValueError, match="multiple"):
        NATIVE.pair_linear(stream, "ovp-int4", 0, 0, 16, 48, 0, 1, 0, 0, 1.0)
