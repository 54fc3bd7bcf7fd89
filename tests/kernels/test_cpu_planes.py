"""Strips of bit planes and their products on every instruction set, against sums of the widened values and,
for bipolar integers, against whole numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from twofold.kernels.cpu import native
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.cpu.linear import linear
from twofold.kernels.cpu.planes import plane_product
from twofold.models.weights import Matrix
from twofold.ops.linear import BitPlaneLinear, LookUpLinear
from twofold.techniques.weights.bipolar_int import BipolarInt, BipolarMatrix, bit_planes, round_activations
from twofold.techniques.weights.bit_planes import PlaneMatrix
from twofold.techniques.weights.lut_gemm import TABLE_TOKENS, CodedMatrix, LutGemm, look_up

NATIVE = native()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native kernels are not built")
ISAS = NATIVE.supported_isas() if NATIVE is not None else []
SHAPES = [(16, 32, 32), (48, 256, 128), (32, 416, 64), (16, 544, 256)]
"""Rows, columns and columns of a group; of some the last group has fewer."""


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


def random(rows: int, cols: int, seed: int) -> torch.Tensor:
    """Normal, with rows of very different size, an outlier and zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator)
    x *= torch.exp2(torch.randint(-5, 6, (rows, 1), generator=generator))
    x[0, :16] = 0.0
    x[-1, -1] *= 50
    return x


def coded(weight: torch.Tensor, q: int, group: int, *, strips: bool = True) -> CodedMatrix:
    found = LutGemm(q=q, g=group, rounds=2).weight_scheme().pack(weight, *weight.shape)
    return in_strips(found) if strips else found


def bipolar(
    weight: torch.Tensor, wbits: int, abits: int, group: int, *, strips: bool = True
) -> BipolarMatrix:
    found = BipolarInt(wbits=wbits, abits=abits, group=group).weight_scheme().pack(weight, *weight.shape)
    return in_strips(found) if strips else found


def in_strips(matrix: Any) -> Any:
    matrix.interleave()
    assert matrix.strips is not None
    assert set(matrix.tensors) == {"packed"}
    return matrix


def product(
    weight: Matrix, x: torch.Tensor, *, threads: int = 2, bias: torch.Tensor | None = None
) -> torch.Tensor:
    op = weight.op(len(x), "fp32")
    kernel = plane_product if isinstance(op, LookUpLinear | BitPlaneLinear) else linear
    out = kernel(CpuContext(NATIVE, threads), op, x, weight, bias)
    assert isinstance(out, torch.Tensor)
    return out


@pytest.mark.parametrize(("rows", "cols", "group"), SHAPES)
@pytest.mark.parametrize("planes", [1, 3, 4, 8])
def test_strips_take_the_same_bytes_and_give_back_the_same_values(
    isa: str, rows: int, cols: int, group: int, planes: int
) -> None:
    weight = random(rows, cols, planes)
    pairs: list[tuple[PlaneMatrix, PlaneMatrix]] = [
        (coded(weight, planes, group, strips=False), coded(weight, planes, group)),
        (bipolar(weight, planes, 2, group, strips=False), bipolar(weight, planes, 2, group)),
    ]
    for plain, strips in pairs:
        torch.testing.assert_close(strips.widen(torch.float32), plain.widen(torch.float32), rtol=1e-6, atol=0)
        assert strips.allocated == strips.nbytes == plain.allocated == plain.nbytes


@pytest.mark.parametrize(("rows", "cols", "group"), SHAPES)
@pytest.mark.parametrize("q", [1, 2, 3, 4, 8])
def test_tables_give_the_product(isa: str, rows: int, cols: int, group: int, q: int) -> None:
    weight = coded(random(rows, cols, q), q, group)
    wide, bias = weight.widen(torch.float64), torch.randn(rows)
    for tokens in (1, 2, 3, 7, 8, 9, 40):
        x = random(tokens, cols, 9)
        assert isinstance(weight.op(tokens, "fp32"), LookUpLinear) == (tokens <= TABLE_TOKENS)
        expected = x.double() @ wide.T + bias
        scale = x.double().abs() @ (wide.abs() + weight_reach(weight)).T + bias.abs()
        assert ((product(weight, x, bias=bias) - expected).abs() <= 3e-6 * scale).all(), (isa, tokens)


def weight_reach(weight: CodedMatrix) -> torch.Tensor:
    """Bound of what factors add up to before they cancel: the largest value of the matrix."""
    return weight.widen(torch.float64).abs().amax(-1, keepdim=True)


def test_tables_do_not_depend_on_the_batch_or_the_threads(isa: str) -> None:
    weight, x = coded(random(64, 576, 1), 3, 128), random(TABLE_TOKENS, 576, 2)
    together = product(weight, x, threads=2)
    alone = torch.cat([product(weight, row[None].contiguous(), threads=1) for row in x])
    assert torch.equal(together, alone)


def test_reference_tables_say_the_same() -> None:
    weight = random(24, 100, 3)
    for mu in (1, 3, 4, 8):
        matrix = LutGemm(q=3, g=24, mu=mu).weight_scheme().pack(weight, 24, 100)
        x = random(5, 100, 4)
        op = matrix.op(5, "fp32")
        assert isinstance(op, LookUpLinear)
        expected = x.double() @ matrix.widen(torch.float64).T
        scale = x.abs() @ weight.abs().amax(-1, keepdim=True).expand_as(weight).T
        assert ((look_up(op, x, matrix) - expected).abs() <= 1e-5 * scale).all()


def integers(weight: BipolarMatrix, x: torch.Tensor) -> torch.Tensor:
    """The product in whole numbers, group by group, scaled in the order of the kernels."""
    values, scales = round_activations(x, weight.abits, weight.group)
    factors = weight.tensors["factors"][..., 0].float()
    powers = 1 << torch.arange(weight.planes)
    codes = torch.einsum("p,opi->oi", powers, weight.signs().long())
    y = torch.zeros(len(x), weight.out_features, dtype=torch.float64)
    for g in range(weight.num_groups):
        part = slice(g * weight.group, (g + 1) * weight.group)
        whole = values[:, part].long() @ codes[:, part].T
        y += whole.double() * factors[:, g] * scales[:, g, None]
    return y


@pytest.mark.parametrize("abits", range(1, 9))
@pytest.mark.parametrize("wbits", range(1, 9))
def test_counted_bits_are_the_product_of_whole_numbers(isa: str, wbits: int, abits: int) -> None:
    """With scales that are powers of two nothing is rounded: results are equal to the last bit."""
    generator = torch.Generator().manual_seed(wbits * 10 + abits)
    rows, cols, group = 32, 288, 256
    most = (1 << wbits) - 1
    codes = torch.randint(0, most + 1, (rows, cols), generator=generator)
    plain = bipolar(torch.ones(rows, cols), wbits, abits, group, strips=False)
    from twofold.techniques.weights.bit_planes import pack_bits

    plain.tensors["planes"] = torch.stack([pack_bits((codes >> i) & 1) for i in range(wbits)], 1)
    plain.tensors["factors"] = torch.ones_like(plain.tensors["factors"])
    largest = (1 << abits) - 1
    for tokens in (1, 5, 17):
        x = 2.0 * torch.randint(0, largest + 1, (tokens, cols), generator=generator) - largest
        x[:, ::group] = largest  # so that every group's scale is 1
        expected = x.long() @ (2 * codes - most).T
        assert torch.equal(integers(plain, x), expected.double())
        strips = bipolar(torch.ones(rows, cols), wbits, abits, group)
        strips.tensors["packed"].copy_(repacked(plain))
        assert torch.equal(product(strips, x), expected.float()), (isa, tokens)


def repacked(plain: BipolarMatrix) -> torch.Tensor:
    from twofold.kernels.cpu.planes import pack

    return pack(False, plain.tensors["planes"], plain.tensors["factors"], plain.group, plain.in_features)


@pytest.mark.parametrize(("wbits", "abits"), [(1, 1), (1, 2), (2, 2), (3, 4), (4, 8), (8, 8)])
def test_bipolar_products_of_real_numbers(isa: str, wbits: int, abits: int) -> None:
    weight = random(48, 416, 5)
    plain, strips = bipolar(weight, wbits, abits, 128, strips=False), bipolar(weight, wbits, abits, 128)
    bias = torch.randn(48)
    for tokens in (1, 4, 40):
        x = random(tokens, 416, 6)
        op = plain.op(tokens, "fp32")
        expected = integers(plain, x) + bias
        scale = plain.prepare(x).abs() @ plain.widen(torch.float32).abs().T + bias.abs()
        for found in (product(strips, x, bias=bias), bit_planes(op, x, plain, bias)):  # type: ignore[arg-type]
            assert ((found - expected).abs() <= 1e-6 * scale).all(), (isa, tokens)


@pytest.mark.parametrize(("wbits", "abits"), [(2, 2), (4, 4), (8, 8)])
def test_counting_and_widening_give_the_same_bits(isa: str, wbits: int, abits: int) -> None:
    weight, x = bipolar(random(32, 544, 7), wbits, abits, 128), random(40, 544, 8)
    few = torch.cat([product(weight, part.contiguous(), threads=1) for part in x.split(3)])
    assert torch.equal(product(weight, x, threads=2), few)


def test_groups_that_are_not_finite_do_not_pass_for_numbers(isa: str) -> None:
    weight, x = bipolar(random(16, 256, 1), 2, 4, 128), random(3, 256, 2)
    x[1, 7] = float("inf")
    x[2, 130] = float("nan")
    y = product(weight, x)
    assert torch.isfinite(y[0]).all()
    assert torch.isnan(y[1:]).all()


def test_what_has_no_strips_stays_as_it_is() -> None:
    for rows, cols, group in ((24, 64, 32), (16, 80, 32), (16, 96, 24)):
        matrix = coded(random(rows, cols, 1), 2, group, strips=False)
        matrix.interleave()
        assert matrix.strips is None
        assert set(matrix.tensors) == {"planes", "factors"}


def test_wrong_arguments_are_refused() -> None:
    stream = NATIVE.Stream(1)
    for rows, cols, planes, group, bits in (
        (24, 64, 2, 32, 2),
        (16, 48, 2, 32, 2),
        (16, 64, 9, 32, 2),
        (16, 64, 2, 512, 2),
        (16, 64, 2, 32, 0),
        (16, 64, 2, 32, 9),
    ):
        with pytest.raises(ValueError, match=r"multiple|planes|bits|columns"):
            NATIVE.plane_linear(stream, False, planes, group, 0, rows, cols, 0, 1, 0, 0, bits)
