"""Strips of block formats and their products: exact widening, and every instruction set against the reference
product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from twofold.kernels.cpu import native
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.cpu.linear import linear
from twofold.kernels.reference.linear import linear as reference
from twofold.techniques.weights.block_formats import BLOCK_FORMATS, block_format
from twofold.techniques.weights.block_matrix import BlockMatrix, BlockScheme
from twofold.techniques.weights.hadamard import rotate, signs

NATIVE = native()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native kernels are not built")
ISAS = NATIVE.supported_isas() if NATIVE is not None else []
STRIPPED = [name for name in BLOCK_FORMATS if name not in ("mxfp8", "mxfp6")]
ACTIVATIONS = [name for name, f in BLOCK_FORMATS.items() if f.format.matmul is not None]
INTEGERS = ["mxint8", "mxint6", "mxint4"]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


def random(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Normal, with columns of very different size, an outlier and a block of zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator)
    x *= torch.exp2(torch.randint(-6, 7, (1, cols // 16), generator=generator)).repeat_interleave(16, 1)
    x[0, :32] = 0.0
    x[-1, -1] = 1e3
    return x


def matrix(name: str, weight: torch.Tensor, *, strips: bool = True, **how: Any) -> BlockMatrix:
    if "activations" in how:
        how["activations"] = block_format(how["activations"])
    packed = BlockScheme(block_format(name), **how).pack(weight, *weight.shape)
    if strips:
        packed.interleave()
        assert set(packed.tensors) <= {"packed", "tensor_scale"}
    return packed


def product(
    weight: BlockMatrix, x: torch.Tensor, *, threads: int = 2, bias: torch.Tensor | None = None
) -> torch.Tensor:
    out = linear(CpuContext(NATIVE, threads), weight.op(len(x), "fp32"), x, weight, bias)
    assert isinstance(out, torch.Tensor)
    return out


@pytest.mark.parametrize("name", STRIPPED)
@pytest.mark.parametrize(("rows", "cols"), [(16, 32), (48, 256), (32, 416)])
def test_strips_take_the_same_bytes_and_give_back_the_same_values(name: str, rows: int, cols: int) -> None:
    weight = random(rows, cols, rows)
    rows_of_codes, strips = matrix(name, weight, strips=False), matrix(name, weight)
    assert torch.equal(strips.widen(torch.float32), rows_of_codes.widen(torch.float32))
    assert strips.allocated == strips.nbytes == rows_of_codes.allocated
    assert strips.tensors["packed"].numel() == NATIVE.packed_bytes(name, rows, cols)


@pytest.mark.parametrize("name", STRIPPED)
def test_extreme_values_survive(name: str) -> None:
    """Largest and smallest magnitudes of both signs, up to the ends of what scales can say."""
    weight = torch.full((16, 128), 1.5e38)
    weight[1::2] *= -1
    weight[2] = 1e-38
    weight[3] = 0.0
    weight[4] = 2.0**-140
    weight[:, 1::2] *= -0.5
    plain = matrix(name, weight, strips=False).widen(torch.float32)
    assert torch.equal(matrix(name, weight).widen(torch.float32), plain)


@pytest.mark.parametrize("name", ["mxfp8", "mxfp6", "mxint8", "nvfp4", "int4-g64"])
def test_what_has_no_strips_stays_as_it_is(name: str) -> None:
    shapes = [(24, 64), (16, 80), (16, 48)] if name not in ("mxfp8", "mxfp6") else [(16, 64)]
    for shape in shapes:
        packed = matrix(name, random(*shape), strips=False)
        before = dict(packed.tensors)
        packed.interleave()
        assert packed.strips is None
        assert packed.tensors == before
    shapes_only = BlockScheme(block_format(name)).pack(None, 16, 64)
    shapes_only.interleave()
    assert shapes_only.strips is None
    halves = BlockScheme(block_format("int4-g128"), rotate=True).pack(random(16, 160), 16, 160)
    halves.interleave()
    assert halves.strips is None


@pytest.mark.parametrize("name", STRIPPED)
@pytest.mark.parametrize("activations", [None, *ACTIVATIONS])
def test_products_equal_the_reference_product(isa: str, name: str, activations: str | None) -> None:
    how = {} if activations is None else {"activations": activations}
    for rows, cols, tokens in ((16, 256, 1), (48, 416, 9)):
        weight, x, bias = random(rows, cols, 1), random(tokens, cols, 2), torch.randn(rows)
        plain, strips = matrix(name, weight, strips=False, **how), matrix(name, weight, **how)
        op = plain.op(tokens, "fp32")
        assert op == strips.op(tokens, "fp32")
        wide, seen = plain.widen(torch.float64), plain.prepare(x).double()
        expected = seen @ wide.T + bias
        found = product(strips, x, bias=bias)
        scale = seen.abs() @ wide.abs().T + bias.abs()
        assert ((found - expected).abs() <= 3e-6 * scale).all(), (isa, name, activations)
        # What the reference kernel computes from strips is the same again.
        torch.testing.assert_close(reference(op, x, strips), reference(op, x, plain))


@pytest.mark.parametrize("name", STRIPPED)
@pytest.mark.parametrize("activations", INTEGERS)
def test_sums_never_saturate(isa: str, name: str, activations: str) -> None:
    """The largest codes times the largest activations of one sign, over a row as long as models have."""
    largest, most = (block_format(f).element.maximum for f in (name, activations))
    for sign in (1.0, -1.0):
        for cols in (128, 8192):
            weight, x = torch.full((16, cols), largest), torch.full((2, cols), sign * most)
            weight[1] *= -1
            weight[2, ::2] *= -1
            x[1, ::2] *= -1
            strips = matrix(name, weight, activations=activations)
            wide, seen = strips.widen(torch.float64), strips.prepare(x).double()
            assert torch.equal(seen, x.double())  # every code is the largest
            torch.testing.assert_close(wide, weight.double(), rtol=2**-8, atol=0.0)
            found, expected = product(strips, x), seen @ wide.T
            assert ((found - expected).abs() <= 1e-5 * (seen.abs() @ wide.abs().T)).all(), (isa, name)


@pytest.mark.parametrize("name", INTEGERS)
def test_integer_products_of_mx_blocks_are_exact(isa: str, name: str) -> None:
    """Scales are powers of two and a block's sum is an integer: within one block nothing is rounded."""
    weight, x = random(64, 32, 3), random(8, 32, 4)
    strips = matrix(name, weight, activations=name)
    exact = strips.prepare(x).double() @ strips.widen(torch.float64).T
    assert torch.equal(product(strips, x).double(), exact)


@pytest.mark.parametrize("name", ["mxint8", "nvfp4", "int4-g128"])
@pytest.mark.parametrize("activations", [None, "mxint8", "mxfp8"])
def test_a_column_does_not_depend_on_its_company(isa: str, name: str, activations: str | None) -> None:
    how = {} if activations is None else {"activations": activations}
    strips, x = matrix(name, random(64, 512), rotate=True, **how), random(23, 512, 7)
    together = product(strips, x)
    for threads in (1, 3):
        for tokens in (1, 2, 4, 7, 9):
            part = product(strips, x[:tokens].contiguous(), threads=threads)
            assert torch.equal(part, together[:tokens])


@pytest.mark.parametrize("name", ["mxint4", "nvint4", "int4-g64"])
@pytest.mark.parametrize("activations", [None, "mxint6", "nvfp4"])
def test_rotated_products(isa: str, name: str, activations: str | None) -> None:
    how = {"rotate": True} if activations is None else {"rotate": True, "activations": activations}
    weight, x = random(32, 192, 5), random(5, 192, 6)
    plain, strips = matrix(name, weight, strips=False, **how), matrix(name, weight, **how)
    expected = reference(plain.op(5, "fp32"), x, plain)
    torch.testing.assert_close(
        product(strips, x), expected, rtol=1e-5, atol=1e-4 * float(expected.abs().max())
    )


# --- activations alone ---


def rounded(name: str, x: torch.Tensor) -> torch.Tensor:
    how, y = block_format(name).rounding, torch.full_like(x, -1.0)
    NATIVE.round_blocks(
        NATIVE.Stream(2),
        how.block,
        how.largest,
        how.mantissa,
        how.smallest_normal,
        how.two_levels,
        x.data_ptr(),
        *x.shape,
        y.data_ptr(),
    )
    return y


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_rounding_is_the_techniques_to_the_last_bit(name: str) -> None:
    x = torch.cat((random(64, 200 // 16 * 16, 8), 2.0**-120 * random(4, 192, 9), 1e30 * random(4, 192, 9)))
    x = torch.cat((x, torch.arange(192.0).view(1, -1) / 4, torch.zeros(1, 192)))
    assert torch.equal(rounded(name, x), block_format(name).round(x, per_row=True))
    ragged = x[:, :151].contiguous()
    assert torch.equal(rounded(name, ragged), block_format(name).round(ragged, per_row=True))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_becomes_nan(isa: str, name: str, poison: float) -> None:
    x = random(3, 128)
    x[1, 40] = poison
    expected = block_format(name).round(x, per_row=True)
    assert torch.equal(rounded(name, x).isnan(), expected.isnan())
    strips = matrix("mxint8", random(16, 128), activations=name)
    assert torch.equal(product(strips, x).isnan().all(1), torch.tensor([False, True, False]))


@pytest.mark.parametrize("name", INTEGERS)
def test_quantised_activations_are_the_techniques(isa: str, name: str) -> None:
    """Against the identity: what comes out are the activations as the product took them."""
    x = torch.cat((random(40, 64, 10), 2.0**-118 * random(2, 64, 11), torch.arange(64.0).view(1, -1) / 4))
    identity = matrix("mxint8", torch.eye(64), activations=name)
    assert torch.equal(product(identity, x), block_format(name).round(x))


@pytest.mark.parametrize("size", [16, 32, 128])
def test_rotation_is_the_techniques_to_the_last_bit(size: int) -> None:
    x, y, sign = random(5, 256), torch.empty(5, 256), signs(size, torch.device("cpu"))
    NATIVE.rotate_blocks(NATIVE.Stream(2), x.data_ptr(), 5, 256, sign.data_ptr(), size, y.data_ptr())
    assert torch.equal(y, rotate(x, size))


def test_mistakes_are_refused() -> None:
    x = torch.zeros(64)
    at = x.data_ptr()
    with pytest.raises(ValueError, match="no packed layout for block format 'q4_0'"):
        NATIVE.unpack_blocks("q4_0", at, 1.0, 16, 32, at)
    with pytest.raises(ValueError, match="'mxint8' is no format of GGUF"):
        NATIVE.unpack("mxint8", at, 16, 32, at)
    with pytest.raises(ValueError, match="multiple of 32"):
        NATIVE.pack_blocks("mxint8", at, at, 16, 48, at)
    with pytest.raises(ValueError, match="power of two"):
        NATIVE.rotate_blocks(NATIVE.Stream(1), at, 1, 64, at, 24, at)
