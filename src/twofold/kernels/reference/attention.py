"""Attention over any cache layer. Shape letters: Q queries of a sequence, N entries, K KV heads, G = heads
per KV head."""

from __future__ import annotations

import torch

from twofold.kernels.registry import reference
from twofold.models.cache import CacheLayer, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import QUERY_TILE, Attention, CacheWrite


@reference(CacheWrite)
def cache_write(op: CacheWrite, cache: CacheLayer, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
    """Let the cache layer store the new entries."""
    del op
    cache.write(step, k, v)


@reference(Attention)
def attention(
    op: Attention, q: torch.Tensor, cache: CacheLayer, step: StepInput, *new: torch.Tensor
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim], sequence by sequence. new: the step's k, v, where these are not stored
    yet."""
    out = q.new_empty(q.shape[0], op.heads * op.v_dim)
    start = 0
    for seq, span in enumerate(step.spans):
        end = start + span.queries
        k, v = cache.read(step, seq, *new)
        out[start:end] = attend_sequence(q[start:end], k, v, cache.heads)
        start = end
    return out


def attend_sequence(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads) -> torch.Tensor:
    """q [Q, H, D] against k, v [N, K, D] whose last Q entries are the queries' own: [Q, H · v_dim].

    Queries go in tiles; keys that no query of a tile may see are not multiplied. Each KV head is read once
    for its group.
    """
    queries, _, dim = q.shape
    entries, kv_heads, _ = k.shape
    group = heads.heads // kv_heads
    first = entries - queries
    keys = k.permute(1, 2, 0)  # [K, D, N]
    values = v.permute(1, 0, 2)  # [K, N, v_dim]
    grouped = q.view(queries, kv_heads, group, dim).permute(1, 2, 0, 3)  # [K, G, Q, D]
    tiles = []
    for start in range(0, queries, QUERY_TILE):
        rows = min(QUERY_TILE, queries - start)
        end = first + start + rows
        begin = 0 if heads.window is None else max(0, first + start - heads.window + 1)
        tile = grouped[:, :, start : start + rows].reshape(kv_heads, group * rows, dim)
        scores = torch.bmm(tile, keys[:, :, begin:end]).mul_(heads.scale)
        if heads.softcap is not None:
            scores = scores.div_(heads.softcap).tanh_().mul_(heads.softcap)
        if rows > 1:
            hidden = hidden_keys(rows, first + start, begin, end, heads.window, q.device)
            scores.view(kv_heads, group, rows, end - begin).masked_fill_(hidden, float("-inf"))
        weights = scores.float().softmax(-1).to(v.dtype)
        tiles.append(torch.bmm(weights, values[:, begin:end]).view(kv_heads, group, rows, -1))
    out = tiles[0] if len(tiles) == 1 else torch.cat(tiles, dim=2)
    return out.permute(2, 0, 1, 3).reshape(queries, -1)


def hidden_keys(
    rows: int, position: int, begin: int, end: int, window: int | None, where: torch.device
) -> torch.Tensor:
    """[rows, end - begin], True where a query (at `position` + row) may not see a key (at `begin` +
    column)."""
    row = torch.arange(position, position + rows, device=where)[:, None]
    column = torch.arange(begin, end, device=where)[None, :]
    hidden = column > row
    return hidden if window is None else hidden | (column <= row - window)
