"""Scoring cache entries by the attention they get, and dropping some. Shape letters: n observed queries of a
sequence, N entries, K KV heads, G = heads per KV head, D head dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.kernels.reference.attention import hidden_keys
from twofold.kernels.registry import reference
from twofold.models.cache import CacheLayer, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import QUERY_TILE
from twofold.ops.compaction import Compact, Compaction, KeyScores


@reference(KeyScores)
def key_scores(op: KeyScores, cache: CacheLayer, step: StepInput, q: torch.Tensor) -> None:
    """q [T, H, D]: the scores of new entries start at zero, then each observed query adds its attention."""
    del op
    scores = cache.tensors["scores"].flatten(0, 1)
    start = 0
    for seq, (span, seen) in enumerate(zip(step.spans, step.observed, strict=True)):
        if seen is not None:
            slots, before = step.tables[seq], span.keys - span.queries
            scores.index_fill_(0, slots[0 if seen.begins else before :], 0.0)
            slots = slots[: before + seen.tokens.stop]
            asked = q[start + seen.tokens.start : start + seen.tokens.stop]
            scores.index_add_(0, slots, received(asked, cache.load_keys(slots), cache.heads).T)
        start += span.queries


def received(q: torch.Tensor, k: torch.Tensor, heads: Heads) -> torch.Tensor:
    """The attention that each of the keys k [K, D, N] gets from the queries q [n, H, D] of the last n
    entries, summed over the queries and over the heads of its group: float32 [K, N]."""
    queries, entries = len(q), k.shape[2]
    kv_heads, group = heads.kv_heads, heads.heads // heads.kv_heads
    grouped = q.view(queries, kv_heads, group, heads.head_dim).permute(1, 2, 0, 3)  # [K, G, n, D]
    total = q.new_zeros(kv_heads, entries, dtype=torch.float32)
    for start in range(0, queries, QUERY_TILE):
        rows = min(QUERY_TILE, queries - start)
        end = entries - queries + start + rows
        tile = grouped[:, :, start : start + rows].reshape(kv_heads, group * rows, heads.head_dim)
        weights = torch.bmm(tile, k[:, :, :end]).mul_(heads.scale)
        if heads.softcap is not None:
            weights = weights.div_(heads.softcap).tanh_().mul_(heads.softcap)
        if rows > 1:
            hidden = hidden_keys(rows, end - rows, 0, end, None, q.device)
            weights.view(kv_heads, group, rows, end).masked_fill_(hidden, float("-inf"))
        total[:, :end] += weights.float().softmax(-1).sum(1)
    return total


@reference(Compact)
def compact(op: Compact, cache: CacheLayer, compactions: Sequence[Compaction]) -> None:
    """Let the layer's retainer choose, sequence by sequence."""
    del op
    assert cache.retainer is not None
    for compaction in compactions:
        cache.retainer.compact(cache, compaction, cache.move)
