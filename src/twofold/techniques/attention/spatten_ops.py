"""Kernels of attention with cascade pruning and progressive quantisation.

Shape letters: Q queries of a sequence, n entries that are not pruned, a heads that are not, m entries
whose values are read, K KV heads, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from twofold.kernels.registry import reference
from twofold.ops.attention import QUERY_TILE
from twofold.ops.pruned_attention import RankedAttention, ScoreUpper, ScoreWhole, WeighValues

if TYPE_CHECKING:
    from twofold.models.step import StepInput
    from twofold.techniques.attention.spatten_cache import SpattenCache


@dataclass(slots=True)
class Work:
    """One sequence's part: its number in the step, its rows of the batch from `start` on, entries and
    heads that are not pruned, int64 [n] and [a], and their weights [a, Q, n] once they are known; unsure:
    (head, query) pairs of those whose weights need all bits, bool [a, Q]."""

    seq: int
    start: int
    queries: int
    entries: torch.Tensor
    heads: torch.Tensor
    weights: torch.Tensor
    unsure: torch.Tensor


@reference(RankedAttention)
def ranked_attention(
    op: RankedAttention,
    q: torch.Tensor,
    cache: SpattenCache,
    step: StepInput,
    seqs: list[int],
    out: torch.Tensor,
) -> torch.Tensor:
    """q [T, H, D]; writes the rows of sequences `seqs` of `out` [T, H · v_dim], and adds what their
    entries are given to their importance."""
    h = cache.heads
    group = h.heads // h.kv_heads
    for seq in seqs:
        queries, entries = step.spans[seq]
        start = sum(s.queries for s in step.spans[:seq])
        k, v = cache.read(step, seq)  # float32
        keys, values = k.permute(1, 2, 0), v.permute(1, 0, 2)
        rows = q[start : start + queries].float().view(queries, h.kv_heads, group, -1).permute(1, 2, 0, 3)
        given = q.new_zeros(entries, dtype=torch.float32)
        first = entries - queries
        for begin in range(0, queries, QUERY_TILE):
            some = min(QUERY_TILE, queries - begin)
            end = first + begin + some
            tile = rows[:, :, begin : begin + some].reshape(h.kv_heads, group * some, -1)
            scores = torch.bmm(tile, keys[..., :end]).mul_(h.scale)
            weights = _soften(scores.view(h.kv_heads, group, some, end), first + begin, cache).flatten(1, 2)
            given[:end] += weights.sum((0, 1))
            found = torch.bmm(weights, values[:, :end]).view(h.kv_heads, group, some, -1)
            out[start + begin : start + begin + some] = found.permute(2, 0, 1, 3).reshape(some, -1)
        cache.add_importance(step, seq, torch.arange(entries, device=q.device), given)
    return out


def _soften(scores: torch.Tensor, position: int, cache: SpattenCache) -> torch.Tensor:
    """Scores [..., rows, entries] of queries that stand at `position` on, to weights, float32."""
    rows, entries = scores.shape[-2:]
    row = torch.arange(position, position + rows, device=scores.device)[:, None]
    return _weights(scores, torch.arange(entries, device=scores.device) > row, cache.heads.softcap)


def _weights(scores: torch.Tensor, hidden: torch.Tensor, softcap: float | None) -> torch.Tensor:
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    return scores.masked_fill_(hidden, float("-inf")).float().softmax(-1)


@reference(ScoreUpper)
def score_upper(
    op: ScoreUpper, q: torch.Tensor, cache: SpattenCache, step: StepInput, work: list[Work], threshold: float
) -> int:
    """Weights of every part of `work` from the upper bits of keys; returns how many (head, query) pairs
    have none that reaches `threshold`."""
    total = 0
    for part in work:
        keys = cache.keys(step, part.seq, part.entries, whole=False)  # [n, K, D]
        rows = q[part.start : part.start + part.queries].float()[:, part.heads].transpose(0, 1)  # [a, Q, D]
        scores = torch.bmm(rows, keys[:, cache.kv_of(part.heads)].permute(1, 2, 0)).mul_(cache.heads.scale)
        part.weights = _weights(scores, _hidden(part, step), cache.heads.softcap)
        part.unsure = part.weights.amax(-1) < threshold
        total += int(part.unsure.sum())
    return total


def _hidden(part: Work, step: StepInput) -> torch.Tensor:
    """[Q, n], True where a query may not see an entry."""
    queries, entries = step.spans[part.seq]
    row = torch.arange(entries - queries, entries, device=part.entries.device)[:, None]
    return part.entries > row


@reference(ScoreWhole)
def score_whole(
    op: ScoreWhole, q: torch.Tensor, cache: SpattenCache, step: StepInput, work: list[Work]
) -> None:
    """Weights of the unsure (head, query) pairs again, from all bits of keys."""
    for part in work:
        head, query = part.unsure.nonzero(as_tuple=True)
        if not len(head):
            continue
        keys = cache.keys(step, part.seq, part.entries, whole=True)
        rows = q[part.start + query, part.heads[head]].float().unsqueeze(1)  # [r, 1, D]
        chosen = keys[:, cache.kv_of(part.heads[head])].permute(1, 2, 0)  # [r, D, n]
        scores = torch.bmm(rows, chosen).squeeze(1).mul_(cache.heads.scale)
        part.weights[head, query] = _weights(scores, _hidden(part, step)[query], cache.heads.softcap)


@reference(WeighValues)
def weigh_values(
    op: WeighValues,
    q: torch.Tensor,
    cache: SpattenCache,
    step: StepInput,
    work: list[Work],
    most: list[int],
    out: torch.Tensor,
) -> torch.Tensor:
    """Writes the rows of `work` in `out` [T, H · v_dim]: the values of the `most` entries with the
    greatest weights of each query and head; pruned heads yield zero."""
    h = cache.heads
    for part, count in zip(work, most, strict=True):
        top = part.weights.topk(count, -1)
        values = cache.values(step, part.seq, part.entries)  # [n, K, v_dim]
        found = values[top.indices, cache.kv_of(part.heads)[:, None, None]]  # [a, Q, m, v_dim]
        summed = torch.bmm(top.values.flatten(0, 1).unsqueeze(1), found.flatten(0, 1))
        summed = summed.view(len(part.heads), part.queries, -1)
        rows = q.new_zeros(part.queries, h.heads, h.v_dim)
        rows[:, part.heads] = summed.transpose(0, 1).to(rows.dtype)
        out[part.start : part.start + part.queries] = rows.flatten(1)
        cache.add_importance(step, part.seq, part.entries, part.weights.sum((0, 1)))
        cache.cascade.add_heads(part.seq, part.heads, summed.abs().mean((1, 2)))
    return out
