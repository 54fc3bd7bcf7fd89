"""Packed weights and their products: exact unpacking, every instruction set against the widened product."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.kernels.blocks import random_blocks, worst_blocks

from twofold.kernels.cpu import native
from twofold.models.gguf_types import widener
from twofold.models.packed import PackedMatrix, merge, pack
from twofold.models.packed import Segment as Seg
from twofold.models.tensors import StoredTensor
from twofold.ops.formats import PACKED

NATIVE = native()
pytestmark = pytest.mark.skipif(NATIVE is None, reason="the native kernels are not built")
ISAS = NATIVE.supported_isas() if NATIVE is not None else []
FORMATS = list(PACKED)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


def stored(fmt: str, rows: int, cols: int, data: torch.Tensor) -> StoredTensor:
    return StoredTensor("w", fmt, (rows, cols), data, widener(fmt))


def product(
    matrix: PackedMatrix, x: torch.Tensor, *, threads: int = 2, bias: torch.Tensor | None = None
) -> torch.Tensor:
    stream = NATIVE.Stream(threads)
    y = torch.full((x.shape[0], matrix.out_features), float("nan"))
    shift = 0 if bias is None else bias.data_ptr()
    NATIVE.linear(
        stream,
        matrix.addresses(),
        matrix.in_features,
        x.data_ptr(),
        x.shape[0],
        shift,
        y.data_ptr(),
        matrix.exact,
    )
    return y


def rounded(x: torch.Tensor) -> torch.Tensor:
    """x after int8 quantisation in blocks of 32, as the kernels do it."""
    blocks = x.view(x.shape[0], -1, 32)
    largest = blocks.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest > 0, 127.0 / largest, 0.0)
    return ((blocks * inverse).round() * (largest / 127.0)).view(x.shape)


@pytest.mark.parametrize("fmt", FORMATS)
def test_packing_gives_back_the_checkpoints_values(fmt: str) -> None:
    for rows in (1, 16, 37):
        data = random_blocks(fmt, rows, 512, seed=rows)
        part = stored(fmt, rows, 512, data)
        packed = pack([part], 512, exact=False)
        assert torch.equal(packed.widen(torch.float32), part.float())
        ids = torch.tensor([0, rows - 1, rows // 2])
        assert torch.equal(packed.rows(ids), part.float()[ids])


@pytest.mark.parametrize("fmt", FORMATS)
def test_bytes_are_counted_as_native_code_counts_them(fmt: str) -> None:
    for rows, cols in ((16, 256), (17, 512), (5, 1024)):
        packed = pack([stored(fmt, rows, cols, random_blocks(fmt, rows, cols, seed=1))], cols, exact=False)
        assert packed.nbytes == packed.allocated == NATIVE.packed_bytes(fmt, rows, cols)
        if rows % 16 == 0 and fmt not in ("q4_k", "q5_k"):
            assert packed.nbytes == random_blocks(fmt, rows, cols, seed=1).numel()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("rows", "cols", "tokens"), [(16, 256, 1), (37, 512, 3), (80, 768, 8), (48, 256, 21)]
)
def test_products_equal_the_widened_product(isa: str, fmt: str, rows: int, cols: int, tokens: int) -> None:
    part = stored(fmt, rows, cols, random_blocks(fmt, rows, cols, seed=rows + tokens))
    x = torch.randn(tokens, cols, generator=torch.Generator().manual_seed(5))
    wide = part.float().double()
    for exact, seen in ((True, x), (False, rounded(x))):
        expected = seen.double() @ wide.T
        found = product(pack([part], cols, exact=exact), x)
        scale = seen.double().abs() @ wide.abs().T
        assert ((found - expected).abs() <= 2e-6 * scale + 1e-6).all(), (isa, fmt, exact)


@pytest.mark.parametrize("fmt", FORMATS)
def test_sums_never_saturate(isa: str, fmt: str) -> None:
    """The largest codes times the largest activations of one sign, over a row as long as models have."""
    for sign in (1.0, -1.0):
        for cols in (256, 8192):
            part = stored(fmt, 16, cols, worst_blocks(fmt, 16, cols))
            x = torch.full((2, cols), sign * 3.0)
            x[1, ::2] *= -1
            expected = x.double() @ part.float().double().T
            scale = x.double().abs() @ part.float().double().abs().T
            found = product(pack([part], cols, exact=False), x)
            assert ((found - expected).abs() <= 1e-5 * scale).all(), (isa, fmt)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_column_does_not_depend_on_its_company(isa: str, fmt: str) -> None:
    part = stored(fmt, 64, 512, random_blocks(fmt, 64, 512, seed=3))
    x = torch.randn(30, 512, generator=torch.Generator().manual_seed(6))
    for exact in (False, True):
        packed = pack([part], 512, exact=exact)
        together = product(packed, x)
        for threads in (1, 3):
            for tokens in (*range(1, 14), 23):  # all numbers of columns that are multiplied at once
                assert torch.equal(
                    product(packed, x[:tokens].contiguous(), threads=threads), together[:tokens]
                )


def test_segments_of_several_formats_and_a_bias(isa: str) -> None:
    parts = [
        stored(f, r, 256, random_blocks(f, r, 256, seed=r))
        for f, r in (("q4_k", 32), ("q4_k", 16), ("q6_k", 20))
    ]
    packed = pack(parts, 256, exact=True)
    assert [s.rows for s in packed.segments] == [48, 20]
    assert packed.format.name == "q4_k_packed+q6_k"
    x, bias = torch.randn(3, 256), torch.randn(68)
    expected = x @ torch.cat([p.float() for p in parts]).T + bias
    torch.testing.assert_close(product(packed, x, bias=bias), expected, rtol=1e-4, atol=1e-4)


def test_segments_merge_only_behind_whole_strips() -> None:
    assert merge([Seg("q4_0", 32), Seg("q4_0", 5), Seg("q4_0", 8)]) == [Seg("q4_0", 37), Seg("q4_0", 8)]


@pytest.mark.parametrize("tokens", [1, 4, 6])
def test_dense_products(isa: str, tokens: int) -> None:
    w, x, bias = torch.randn(45, 83), torch.randn(tokens, 83), torch.randn(45)
    y = torch.full((tokens, 45), float("nan"))
    stream = NATIVE.Stream(2)
    NATIVE.dense_linear(stream, w.data_ptr(), 45, 83, x.data_ptr(), tokens, bias.data_ptr(), y.data_ptr())
    torch.testing.assert_close(y, x @ w.T + bias, rtol=1e-5, atol=1e-5)


def test_packed_rows_look_up_an_embedding(isa: str) -> None:
    part = stored("q8_0", 40, 96, random_blocks("q8_0", 40, 96, seed=2))
    packed = pack([part], 96, exact=False)
    ids, y = torch.tensor([3, 39, 0, 16]), torch.empty(4, 96)
    (name, address, _) = packed.addresses()[0]
    NATIVE.packed_rows(NATIVE.Stream(2), name, address, 96, ids.data_ptr(), 4, 2.0, y.data_ptr())
    assert torch.equal(y, part.float()[ids] * 2.0)


def test_unknown_formats_and_broken_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="no packed layout"):
        NATIVE.packed_bytes("q3_k", 16, 256)
    with pytest.raises(ValueError, match="whole blocks"):
        NATIVE.packed_bytes("q4_k", 16, 128)
