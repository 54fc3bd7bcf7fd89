"""Moving and scoring cache entries by native kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from twofold.kernels.cpu.cache import NativeCache, by_token
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu
from twofold.models.cache import CacheLayer
from twofold.models.step import StepInput
from twofold.ops.compaction import Compact, Compaction, KeyScores

_LEFT_ALONE = 0, -1, False


@cpu(KeyScores)
def key_scores(ctx: CpuContext, op: KeyScores, cache: CacheLayer, step: StepInput, q: torch.Tensor) -> Any:
    """q [T, H, D]: add the attention of the observed queries to the scores."""
    del op
    spans = step.spans_native() if by_token(q) else None
    if spans is None or type(cache) is not NativeCache:
        return NotImplemented
    h = cache.heads
    watched = [
        _LEFT_ALONE if seen is None else (seen.tokens.start, seen.tokens.stop, seen.begins)
        for seen in step.observed
    ]
    scores = cache.tensors["scores"].data_ptr()
    handle = cache.handle()
    ctx.native.observe(
        ctx.stream,
        handle,
        spans,
        watched,
        q.data_ptr(),
        q.stride(0),
        h.heads,
        h.scale,
        h.softcap or 0.0,
        scores,
    )
    return None


@cpu(Compact)
def compact(ctx: CpuContext, op: Compact, cache: CacheLayer, compactions: Sequence[Compaction]) -> Any:
    """Let the layer's retainer choose, sequence by sequence."""
    del op
    assert cache.retainer is not None

    def move(source: torch.Tensor, target: torch.Tensor) -> None:
        move_entries(ctx, cache, source, target)

    for compaction in compactions:
        cache.retainer.compact(cache, compaction, move)
    return None


def move_entries(ctx: CpuContext, cache: CacheLayer, source: torch.Tensor, target: torch.Tensor) -> None:
    """As `CacheLayer.move`, where the i-th target lies at or before the i-th source in its sequence."""
    source, target = source.contiguous(), target.contiguous()
    for view in cache.by_slot():
        _, block_size, heads, *width = view.shape
        ctx.native.move_entries(
            ctx.stream,
            view.data_ptr(),
            view.element_size(),
            block_size,
            heads,
            width[0] if width else 1,
            *view.stride()[:3],
            view.stride(3) if width else 1,
            source.data_ptr(),
            source.dim() == 2,
            target.data_ptr(),
            len(target),
        )
