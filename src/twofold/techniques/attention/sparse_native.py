"""Sparse prefill attention by native kernels, over a NativeCache."""

from __future__ import annotations

from typing import Any

import torch

from twofold.kernels.cpu.cache import NativeCache, by_token
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu
from twofold.models.cache import CacheLayer
from twofold.models.step import StepInput
from twofold.ops.sparse_attention import EstimateAttention, SparseAttention
from twofold.techniques.attention.sparse_patterns import KINDS, SparseIndex, SparsePlan


@cpu(EstimateAttention)
def estimate(
    ctx: CpuContext,
    op: EstimateAttention,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    plan: SparsePlan,
    *new: torch.Tensor,
) -> Any:
    """The index (`native.PrefillIndex`) for q [T, H, D]."""
    del op, new
    spans = step.spans_native() if isinstance(cache, NativeCache) and by_token(q) else None
    if spans is None:
        return NotImplemented
    assert isinstance(cache, NativeCache)
    return ctx.native.prefill_index(
        ctx.stream,
        cache.handle(),
        spans,
        q.data_ptr(),
        q.stride(0),
        cache.heads.heads,
        cache.heads.scale,
        cache.heads.softcap or 0.0,
        [KINDS.index(pattern.kind) for pattern in plan.patterns],
        [pattern.vertical for pattern in plan.patterns],
        [pattern.slash for pattern in plan.patterns],
        plan.tile,
        plan.last_q,
        plan.first,
        plan.local,
    )


@cpu(SparseAttention)
def sparse_attention(
    ctx: CpuContext,
    op: SparseAttention,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    index: Any,
    plan: SparsePlan,
    *new: torch.Tensor,
) -> Any:
    """q [T, H, D] to [T, H · v_dim], by an index that `estimate` made."""
    del plan, new
    if isinstance(index, SparseIndex):
        return NotImplemented
    assert isinstance(cache, NativeCache)
    out = ctx.empty(q.shape[0], op.heads * op.v_dim)
    ctx.native.prefill_attention(
        ctx.stream,
        cache.handle(),
        step.spans_native(),
        index,
        q.data_ptr(),
        q.stride(0),
        out.data_ptr(),
        op.heads,
        cache.heads.scale,
        cache.heads.softcap or 0.0,
    )
    return out
