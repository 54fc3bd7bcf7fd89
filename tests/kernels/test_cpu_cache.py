"""The native cache: its bytes, what torch writes against what the native kernel writes, and how exactly it
keeps entries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.kernels.paged import entries, heads, step_of

from twofold.kernels.cpu import native
from twofold.kernels.cpu.attention import cache_write
from twofold.kernels.cpu.cache import NativeCache, NativeCacheScheme
from twofold.kernels.cpu.context import CpuContext
from twofold.models.cache import CacheSize
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput

FORMATS = ["f32", "f16", "int8", "int4"]
ISAS = [] if native() is None else native().supported_isas()
needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native().isa()
    native().use_isa(request.param)
    yield request.param
    native().use_isa(before)


def empty_cache(fmt: str, dim: int, block_size: int = 16, v_dim: int | None = None) -> NativeCache:
    cache = NativeCacheScheme(fmt).cache_layer(heads(4, 2, dim, v_dim), block_size, 0)
    cache.allocate(CacheSize(12, block_size, 4), torch.device("cpu"))
    return cache


def worst_cases(x: torch.Tensor) -> torch.Tensor:
    """Rows that are constant, zero, tiny, beyond float16, and with ties between codes."""
    x[0, 0] = 0.0
    x[1, 0] = 3.25
    x[2, 0] *= 1e-9
    x[3, 0] *= 1e6
    x[4, 0] = torch.linspace(-12.7, 12.7, x.shape[-1]).mul(10).round() / 20
    x[5, 0, 1:] = -70000.0
    return x


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dim", [8, 64, 80, 128])
@pytest.mark.parametrize("block_size", [16, 48])
def test_predicted_bytes_are_allocated(fmt: str, dim: int, block_size: int) -> None:
    cache = empty_cache(fmt, dim, block_size, v_dim=dim + 8)
    assert cache.allocated == 12 * cache.block_bytes()
    step = step_of([(1, 40), (7, 20)], 12, block_size)
    assert cache.write_bytes(step) == 8 * cache.block_bytes() // block_size
    assert cache.read_bytes(step) == 60 * cache.block_bytes() // block_size


def test_bytes_of_an_entry() -> None:
    """Two KV heads of 64 elements, keys and values: 256 elements and their scales."""
    found = {fmt: empty_cache(fmt, 64).entry_bytes for fmt in FORMATS}
    assert found == {"f32": 1024, "f16": 512, "int8": 256 + 4 * 2, "int4": 128 + 4 * 2 * 4}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dim", [8, 64, 72, 80])
def test_what_is_written_is_read(fmt: str, dim: int) -> None:
    """Within half a step of the format, in the sequence's order, wherever its blocks lie."""
    cache, step = empty_cache(fmt, dim, v_dim=32), step_of([(40, 40), (3, 3)], 12)
    k, v = entries(43, 2, dim), entries(43, 2, 32)
    cache.write(step, k, v)
    for given, stored in ((k, cache.read(step, 0)[0]), (v, cache.read(step, 0)[1])):
        span = given[:40].abs().amax(-1, keepdim=True)
        share = {"f32": 0.0, "f16": 2**-11, "int8": 0.502 / 127, "int4": 2 * 0.52 / 15}[fmt]
        assert ((stored - given[:40]).abs() <= span * share + 1e-7).all()
    torch.testing.assert_close(cache.read(step, 1)[0], k[40:], rtol=0.2, atol=2.0)


@needs_native
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dim", [8, 64, 72, 80, 96])
@pytest.mark.parametrize("threads", [1, 2])
def test_native_and_torch_leave_the_same_bytes(isa: str, fmt: str, dim: int, threads: int) -> None:
    by_torch, by_native = (empty_cache(fmt, dim, v_dim=40) for _ in range(2))
    step = step_of([(40, 60), (1, 30), (3, 3)], 12)
    fused = torch.randn(44, 2 * (dim + 40) + 7)  # keys and values as they lie in a fused projection
    k, v = fused[:, : 2 * dim].unflatten(1, (2, dim)), fused[:, 2 * dim : -7].unflatten(1, (2, 40))
    worst_cases(k), worst_cases(v)
    by_torch.write(step, k, v)
    assert cache_write(CpuContext(native(), threads), by_native.ops(step)[0], by_native, step, k, v) is None
    for name, tensor in by_torch.tensors.items():
        assert torch.equal(tensor, by_native.tensors[name]), name


@needs_native
def test_native_write_leaves_the_rest_alone() -> None:
    cache = empty_cache("int4", 64)
    for tensor in cache.tensors.values():
        tensor.view(torch.uint8).fill_(0x3A)
    before = {name: tensor.clone() for name, tensor in cache.tensors.items()}
    step = step_of([(1, 20)], 12)
    cache_write(
        CpuContext(native(), 2), cache.ops(step)[0], cache, step, entries(1, 2, 64), entries(1, 2, 64)
    )
    block, at = divmod(int(step.slots[0]), 16)  # type: ignore[index]
    for name, tensor in cache.tensors.items():
        entry = tensor[block, :, :, at] if name.startswith("k") else tensor[block, :, at]
        old = before[name][block, :, :, at] if name.startswith("k") else before[name][block, :, at]
        assert not torch.equal(entry, old)
        entry.copy_(old)
        assert torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8))


@needs_native
def test_leaves_what_it_cannot_store_to_the_reference() -> None:
    ctx, cache, step = CpuContext(native(), 1), empty_cache("f16", 16), step_of([(2, 2)], 12)
    op, x = cache.ops(step)[0], entries(2, 2, 16)
    assert cache_write(ctx, op, cache, step, x.double(), x.double()) is NotImplemented
    assert cache_write(ctx, op, DenseCache(heads(4, 2, 16), 16), step, x, x) is NotImplemented


def test_blocks_copy_to_host_and_back() -> None:
    cache, step = empty_cache("int4", 64), step_of([(16, 16)], 12)
    cache.write(step, entries(16, 2, 64), entries(16, 2, 64))
    expected = cache.read(step, 0)
    host = {name: torch.zeros(2, *t.shape[1:], dtype=t.dtype) for name, t in cache.tensors.items()}
    block = step.block_tables[0][0]
    cache.copy_blocks([(block, 1)], host, out=True)
    for tensor in cache.tensors.values():
        tensor.zero_()
    cache.copy_blocks([(block, 1)], host, out=False)
    for found, wanted in zip(cache.read(step, 0), expected, strict=True):
        assert torch.equal(found, wanted)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"unknown cache format 'int5'.*int8"):
        NativeCacheScheme("int5")
    for layer, size, reason in (
        (heads(4, 2, 64), 8, "block size 8"),
        (heads(4, 2, 36), 16, "head dimension 36"),
        (heads(66, 2, 64), 16, "33 query heads"),
    ):
        with pytest.raises(ValueError, match=reason):
            NativeCacheScheme("f16").cache_layer(layer, size, 0)


def test_counts_operations_of_packing_and_widening() -> None:
    step = StepInput(step_of([(2, 10)], 12).spans, 2, 1)
    cache = NativeCacheScheme("int4").cache_layer(heads(4, 2, 64), 16, 0)
    assert cache.pack_flop(step) == 2 * 256 * 9
    assert cache.widen_flop(step) == 10 * 256 * 4
    assert NativeCacheScheme("f32").cache_layer(heads(4, 2, 64), 16, 0).widen_flop(step) == 0
