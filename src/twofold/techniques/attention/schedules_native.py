"""Exact attention schedules by native kernels, over a NativeCache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from twofold.kernels.cpu.cache import NativeCache, by_token
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu
from twofold.models.cache import CacheLayer
from twofold.models.step import StepInput
from twofold.ops.schedules import KeysOutside, LeanAttention, QueriesOutside, TwoPassAttention

MOST_BLOCK_KEYS, MOST_BLOCK_QUERIES = 256, 128
"""Keys and queries of a block that native kernels take at most."""
TILE_MULTIPLE = 256
"""Keys that native tiles are a multiple of."""


@cpu(QueriesOutside)
def queries_outside(
    ctx: CpuContext,
    op: QueriesOutside,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    *new: torch.Tensor,
) -> Any:
    """q [T, H, D] to [T, H · v_dim]: native attention goes over tiles of queries, and over keys inside."""
    return cache.attend_native(ctx, op, q, step, *new)


@cpu(KeysOutside)
def keys_outside(
    ctx: CpuContext,
    op: KeysOutside,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    *new: torch.Tensor,
) -> Any:
    """q [T, H, D] to [T, H · v_dim]. Blocks are of sixteens of keys, and no larger than kernels take."""
    del new
    keys = max(16, min(op.key_block, MOST_BLOCK_KEYS) // 16 * 16)
    blocks = {"key_block": keys, "query_block": min(op.query_block, MOST_BLOCK_QUERIES)}
    return _attend(ctx, ctx.native.keys_outside, q, cache, step, **blocks)


@cpu(LeanAttention)
def lean_attention(
    ctx: CpuContext,
    op: LeanAttention,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    *new: torch.Tensor,
) -> Any:
    """q [T, H, D] to [T, H · v_dim]."""
    del new
    if op.tile % TILE_MULTIPLE:
        return NotImplemented
    return _attend(ctx, ctx.native.lean_attention, q, cache, step, tile=op.tile, workers=op.workers)


@cpu(TwoPassAttention)
def two_pass_attention(
    ctx: CpuContext,
    op: TwoPassAttention,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    *new: torch.Tensor,
) -> Any:
    """q [T, H, D] to [T, H · v_dim]."""
    del op, new
    return _attend(ctx, ctx.native.attention, q, cache, step, window=0, pair_sums=True)


def _attend(
    ctx: CpuContext,
    kernel: Callable[..., None],
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    **options: int,
) -> Any:
    spans = step.spans_native() if isinstance(cache, NativeCache) and by_token(q) else None
    if spans is None:
        return NotImplemented
    assert isinstance(cache, NativeCache)
    heads = cache.heads
    out = ctx.empty(q.shape[0], heads.heads * heads.v_dim)
    kernel(
        ctx.stream,
        cache.handle(),
        spans,
        q.data_ptr(),
        q.stride(0),
        out.data_ptr(),
        heads.heads,
        heads.scale,
        heads.softcap or 0.0,
        **options,
    )
    return out
