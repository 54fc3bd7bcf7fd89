"""Native attention against the reference kernel on the same stored entries, and its promise that a row's
result does not depend on what it is computed with."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from tests.kernels.paged import entries, filled_cache, heads, step_of

from twofold.kernels.cpu import native
from twofold.kernels.cpu.attention import attention
from twofold.kernels.cpu.cache import NativeCache, NativeCacheScheme
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.reference.attention import attention as reference_attention
from twofold.models.cache import CacheSize
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput

pytestmark = pytest.mark.skipif(native() is None, reason="the native kernels are not built")
ISAS = [] if native() is None else native().supported_isas()
FORMATS = ["f32", "f16", "int8", "int4"]
TOLERANCE = 1e-5
"""Relative to the largest output: both compute in float32 on equal entries, in another order."""


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native().isa()
    native().use_isa(request.param)
    yield request.param
    native().use_isa(before)


@pytest.fixture(scope="module", params=[1, 2], ids=["1-thread", "2-threads"])
def context(request: pytest.FixtureRequest) -> CpuContext:
    return CpuContext(native(), request.param)


@pytest.fixture(scope="module")
def single() -> CpuContext:
    return CpuContext(native(), 1)


def queries(step: StepInput, cache: NativeCache, padding: int = 24) -> torch.Tensor:
    """Queries [T, H, D] as a view into wider rows, as they lie in a fused projection."""
    h = cache.heads
    wide = torch.randn(step.num_tokens, h.heads * h.head_dim + padding)
    return wide[:, : h.heads * h.head_dim].unflatten(1, (h.heads, h.head_dim))


def run(ctx: CpuContext, cache: NativeCache, step: StepInput, q: torch.Tensor) -> torch.Tensor:
    out = attention(ctx, cache.ops(step)[1], q, cache, step)
    assert isinstance(out, torch.Tensor)
    return out


def check(ctx: CpuContext, cache: NativeCache, step: StepInput) -> None:
    q = queries(step, cache)
    expected = reference_attention(cache.ops(step)[1], q.contiguous(), cache, step)
    found = run(ctx, cache, step, q)
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("dim", [8, 64, 72, 80, 96])
def test_equals_reference_for_every_format_and_width(
    isa: str, context: CpuContext, fmt: str, dim: int
) -> None:
    cache = filled_cache(heads(3, 1, dim), fmt, 40)
    check(context, cache, step_of([(1, 1), (1, 17), (1, 300), (5, 130), (19, 19)], 40))


@pytest.mark.parametrize(("count", "kv_heads"), [(1, 1), (4, 4), (8, 2), (5, 1), (7, 1), (14, 2), (32, 1)])
def test_equals_reference_for_every_group(isa: str, context: CpuContext, count: int, kv_heads: int) -> None:
    cache = filled_cache(heads(count, kv_heads, 16), "f16", 40)
    check(context, cache, step_of([(1, 270), (3, 64), (21, 40)], 40))


@pytest.mark.parametrize("window", [None, 1, 16, 50, 256, 300])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_equals_reference_with_window_and_softcap(
    isa: str, context: CpuContext, window: int | None, softcap: float | None
) -> None:
    cache = filled_cache(heads(3, 1, 16, softcap=softcap, window=window), "f16", 70, 32)
    check(context, cache, step_of([(1, 600), (5, 513), (60, 700), (1, 3)], 70, 32))


def test_keys_and_values_may_differ_in_width(isa: str, context: CpuContext) -> None:
    cache = filled_cache(heads(4, 2, 24, v_dim=40), "f16", 24)
    check(context, cache, step_of([(1, 100), (30, 90)], 24))


@pytest.mark.parametrize("seed", range(6))
def test_equals_reference_on_random_batches(isa: str, context: CpuContext, seed: int) -> None:
    rng = random.Random(seed)
    block_size = rng.choice([16, 32, 48])
    kv_heads = rng.choice([1, 2, 3])
    layer = heads(
        kv_heads * rng.choice([1, 2, 3, 4]),
        kv_heads,
        rng.choice([16, 32, 64, 128]),
        softcap=rng.choice([None, None, 30.0]),
        window=rng.choice([None, None, rng.randint(1, 400)]),
    )
    spans = []
    for _ in range(rng.randint(1, 5)):
        new = rng.choice([1, 1, 1, rng.randint(2, 8), rng.randint(9, 70)])
        spans.append((new, new + rng.choice([0, rng.randint(0, 40), rng.randint(0, 500)])))
    cache = filled_cache(layer, rng.choice(FORMATS), 120, block_size)
    check(context, cache, step_of(spans, 120, block_size, seed))


def test_large_prefill(context: CpuContext) -> None:
    """Several tiles of queries over several partitions: only with the vectors, for time's sake."""
    cache = filled_cache(heads(6, 2, 64), "f16", 60)
    check(context, cache, step_of([(400, 700)], 60))


def test_scores_far_apart(isa: str, context: CpuContext) -> None:
    """Partitions whose maxima differ by more than exp can span: nothing overflows, the largest wins."""
    cache = filled_cache(heads(2, 1, 16), "f32", 70)
    step = step_of([(1, 1000), (2, 20)], 70)
    slots = step.tables[0]
    cache.tensors["k"][slots // 16, :, :, slots % 16] *= torch.linspace(-60.0, 60.0, len(slots))[
        :, None, None
    ]
    q = queries(step, cache)
    expected = reference_attention(cache.ops(step)[1], q.contiguous(), cache, step)
    found = run(context, cache, step, q)
    assert found.isfinite().all()
    # Scores of some hundreds carry a rounding error of about 1e-4, which the weights inherit.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fmt", ["f16", "int4"])
def test_a_row_does_not_depend_on_its_batch(isa: str, single: CpuContext, fmt: str) -> None:
    """Bit for bit: in a mixed batch on two threads, alone on one, as part of a prefill, as a single query."""
    cache = filled_cache(heads(6, 2, 64, window=400), fmt, 150)
    spans = [(1, 520), (70, 600), (3, 259), (1, 9), (1, 700)]
    step = step_of(spans, 150)
    q = queries(step, cache)
    together = run(CpuContext(native(), 2), cache, step, q)
    start = 0
    for (new, keys), table in zip(spans, step.block_tables, strict=True):
        for first, last in {(0, new), (new // 2, new), (new - 1, new), (new // 3, new // 3 + 1)}:
            part = step_of([(last - first, keys - new + last)], 150)
            part.block_tables = [table]
            alone = run(single, cache, part, q[start + first : start + last])
            assert torch.equal(alone, together[start + first : start + last])
        start += new


def test_what_others_left_behind_does_not_leak(isa: str, context: CpuContext) -> None:
    """Slots behind the end of a sequence may hold anything, infinities and NaN included."""
    cache = filled_cache(heads(3, 1, 32), "f16", 8)
    step = step_of([(1, 37), (2, 5)], 8)
    q = queries(step, cache)
    before = run(context, cache, step, q)
    used = torch.cat(list(step.tables))
    rest = torch.tensor([s for s in range(8 * 16) if s not in set(used.tolist())])
    cache.tensors["k"][rest // 16, :, :, rest % 16] = float("nan")
    cache.tensors["v"][rest // 16, :, rest % 16, :] = float("inf")
    assert torch.equal(run(context, cache, step, q), before)


def test_recorded_attention_follows_the_spans(single: CpuContext) -> None:
    """A replay reads the geometry that holds then: here one that needs more room for partial results."""
    cache = filled_cache(heads(6, 2, 64), "f16", 150)
    step = step_of([(1, 20), (1, 300)], 150)
    q = queries(step, cache)
    program = native().Program(single.stream)
    program.record()
    out = run(single, cache, step, q)
    program.end()
    step.refresh(step_of([(1, 700), (1, 1300)], 150, seed=3))
    program.run()
    expected = reference_attention(cache.ops(step)[1], q.contiguous(), cache, step)
    assert (out - expected).abs().max() <= TOLERANCE * expected.abs().max()


def test_leaves_what_it_cannot_compute_to_the_reference(single: CpuContext) -> None:
    cache = filled_cache(heads(2, 1, 16), "f16", 4)
    step = step_of([(1, 5)], 4)
    q, op = queries(step, cache), cache.ops(step)[1]
    dense = DenseCache(heads(2, 1, 16), 16)
    assert attention(single, op, q.half(), cache, step) is NotImplemented
    assert attention(single, op, q, dense, step) is NotImplemented
    assert (
        attention(single, op, q.transpose(1, 2).contiguous().transpose(1, 2), cache, step) is NotImplemented
    )


def test_spans_refuse_what_does_not_fit() -> None:
    spans = native().Spans()
    with pytest.raises(ValueError, match="blocks for 16"):
        spans.set([1], [17], [[0]], 16)
    with pytest.raises(ValueError, match="2 queries, 1 keys"):
        spans.set([2], [1], [[0]], 16)
    with pytest.raises(ValueError, match="one element per sequence"):
        spans.set([1, 1], [1], [[0]], 16)
    spans.set([1, 3], [16, 30], [[5], (2, 9)], 16)
    assert spans.tokens == 4


def test_cache_and_spans_must_agree(single: CpuContext) -> None:
    cache = NativeCacheScheme("f16").cache_layer(heads(2, 1, 16), 32, 0)
    cache.allocate(CacheSize(4, 32, 1), torch.device("cpu"))
    step = step_of([(1, 5)], 4, 16)
    with pytest.raises(ValueError, match="differ in block size"):
        attention(single, cache.ops(step)[1], entries(1, 2, 16), cache, step)
