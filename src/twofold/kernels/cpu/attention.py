"""Native attention over a NativeCache, and writing to one."""

from __future__ import annotations

import torch

from twofold.kernels.cpu.cache import NativeCache
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu
from twofold.models.cache import CacheLayer
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, CacheWrite


def _by_token(x: torch.Tensor) -> bool:
    """Whether x [T, heads, D] is float32 with each token's heads one after the other."""
    together = x.shape[1] == 1 or x.stride(1) == x.shape[2]
    return x.dtype == torch.float32 and x.stride(2) == 1 and together


@cpu(CacheWrite)
def cache_write(
    ctx: CpuContext, op: CacheWrite, cache: CacheLayer, step: StepInput, k: torch.Tensor, v: torch.Tensor
) -> None:
    """Store k, v [T, K, D] at `step.slots`, in the cache's format."""
    if type(cache) is not NativeCache or not (_by_token(k) and _by_token(v)):
        return NotImplemented
    assert step.slots is not None
    ctx.native.cache_write(
        ctx.stream,
        cache.handle(),
        k.data_ptr(),
        k.stride(0),
        v.data_ptr(),
        v.stride(0),
        step.slots.data_ptr(),
        op.tokens,
    )


@cpu(Attention)
def attention(
    ctx: CpuContext, op: Attention, q: torch.Tensor, cache: CacheLayer, step: StepInput
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim], for all sequences of the step at once."""
    if type(cache) is not NativeCache or not _by_token(q):
        return NotImplemented
    spans = step.spans_native()
    if spans is None:
        return NotImplemented
    heads = cache.heads
    out = ctx.empty(q.shape[0], heads.heads * heads.v_dim)
    ctx.native.attention(
        ctx.stream,
        cache.handle(),
        spans,
        q.data_ptr(),
        q.stride(0),
        out.data_ptr(),
        heads.heads,
        heads.scale,
        heads.softcap or 0.0,
        heads.window or 0,
    )
    return out
