"""Which keys each tile of queries reads under a head's pattern, in torch: the reference of sparse prefill.

Keys are read in groups of sixteen neighbours, and single columns beside them. Shape letters: N entries,
K KV heads, H heads, D head dimension, L queries that estimate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from twofold.kernels.reference.attention import attend_sequence
from twofold.kernels.registry import reference
from twofold.models.cache import CacheLayer, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.sparse_attention import EstimateAttention, SparseAttention

GROUP = 16
"""Neighbouring keys that are read together."""

KINDS = ("a-shape", "vertical-slash", "block-sparse")


@dataclass(frozen=True, slots=True)
class HeadPattern:
    """What a tile of queries of one head reads: `vertical` keys as columns and `slash` keys along diagonals.

    a-shape: the first and the last ones; vertical-slash: those that the estimate ranks highest; block-sparse:
    blocks with as many keys as both together.
    """

    kind: str
    vertical: int
    slash: int

    @property
    def keys(self) -> int:
        """Keys that a tile reads at most."""
        return self.vertical + self.slash


@dataclass(frozen=True, slots=True)
class SparsePlan:
    """The patterns of a layer's heads, all of the same number of keys, and how an index is made.

    tile: queries that read the same keys, and keys of a block; last_q: the last queries of a span, which
    estimate for all of it; first, local: columns and diagonals that are always read.
    """

    patterns: tuple[HeadPattern, ...]
    tile: int
    last_q: int
    first: int
    local: int

    @property
    def keys(self) -> int:
        """Keys that a tile reads at most."""
        return self.patterns[0].keys

    def is_sparse(self, span: Span) -> bool:
        """Whether enough queries come at once to estimate from, and there is something to leave out."""
        return span.queries >= self.last_q and span.keys > self.keys

    def tiles(self, span: Span) -> Iterator[tuple[int, int]]:
        """Positions of the first query of each tile, and behind its last."""
        for start in range(span.keys - span.queries, span.keys, self.tile):
            yield start, min(start + self.tile, span.keys)

    def scored(self, span: Span) -> int:
        """Query-key scores that estimating takes, over all heads."""
        found = 0
        for pattern in self.patterns:
            if pattern.kind == "vertical-slash":
                found += self.last_q * span.keys
            elif pattern.kind == "block-sparse":
                found += -(-span.queries // self.tile) * -(-span.keys // self.tile)
        return found

    def most_pairs(self, span: Span) -> int:
        """Query-key pairs of one head where every tile reads all that it may."""
        return sum((end - start) * min(self.keys, end) for start, end in self.tiles(span))


@dataclass(slots=True)
class SparseIndex:
    """For each sequence of a step None, where it attends to everything, or the keys of each tile by head.

    pairs: query-key pairs over all heads; entries: distinct entries read, over all KV heads; both of the
    sparse sequences alone.
    """

    sequences: list[list[list[torch.Tensor]] | None]
    pairs: int = 0
    entries: int = 0


@reference(EstimateAttention)
def estimate(
    op: EstimateAttention,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    plan: SparsePlan,
    *new: torch.Tensor,
) -> SparseIndex:
    """The index for q [T, H, D] over the cache."""
    del op
    index = SparseIndex([])
    start = 0
    for seq, span in enumerate(step.spans):
        if not plan.is_sparse(span):
            index.sequences.append(None)
        else:
            k, _ = cache.read(step, seq, *new)
            chosen = choose_keys(q[start : start + span.queries], k, cache.heads, plan)
            index.sequences.append(chosen)
            count(index, chosen, span, cache.heads, plan)
        start += span.queries
    return index


@reference(SparseAttention)
def sparse_attention(
    op: SparseAttention,
    q: torch.Tensor,
    cache: CacheLayer,
    step: StepInput,
    index: SparseIndex,
    plan: SparsePlan,
    *new: torch.Tensor,
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim]."""
    out = q.new_empty(q.shape[0], op.heads * op.v_dim)
    start = 0
    for seq, span in enumerate(step.spans):
        end = start + span.queries
        k, v = cache.read(step, seq, *new)
        chosen = index.sequences[seq]
        if chosen is None:
            out[start:end] = attend_sequence(q[start:end], k, v, cache.heads)
        else:
            out[start:end] = attend_chosen(q[start:end], k, v, cache.heads, plan, chosen)
        start = end
    return out


def attend_chosen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: Heads,
    plan: SparsePlan,
    chosen: list[list[torch.Tensor]],
) -> torch.Tensor:
    """q [Q, H, D] against the `chosen` of k, v [N, K, D]: [Q, H · v_dim]."""
    queries, entries = q.shape[0], k.shape[0]
    group = heads.heads // heads.kv_heads
    out = q.new_empty(queries, heads.heads, v.shape[2])
    span = Span(queries, entries)
    for head, tiles in enumerate(chosen):
        for (start, end), keys in zip(plan.tiles(span), tiles, strict=True):
            rows = slice(start - entries + queries, end - entries + queries)
            scores = capped(q[rows, head] @ k[keys, head // group].T, heads)
            position = torch.arange(start, end, device=q.device)
            scores = scores.masked_fill(keys[None] > position[:, None], float("-inf"))
            out[rows, head] = scores.float().softmax(-1).to(v.dtype) @ v[keys, head // group]
    return out.flatten(1)


def count(
    index: SparseIndex, chosen: list[list[torch.Tensor]], span: Span, heads: Heads, plan: SparsePlan
) -> None:
    """Add what a sequence reads to the sums of `index`."""
    group = heads.heads // heads.kv_heads
    for tiles in chosen:
        rows = (end - start for start, end in plan.tiles(span))
        index.pairs += sum(n * len(keys) for n, keys in zip(rows, tiles, strict=True))
    for kv in range(heads.kv_heads):
        read = [keys for tiles in chosen[kv * group : (kv + 1) * group] for keys in tiles]
        index.entries += len(torch.unique(torch.cat(read)))


# --- choosing ---


def capped(products: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Scores of products q · k: scaled, and soft-capped where the layer does so."""
    scores = products * heads.scale
    return scores if heads.softcap is None else heads.softcap * torch.tanh(scores / heads.softcap)


def choose_keys(q: torch.Tensor, k: torch.Tensor, heads: Heads, plan: SparsePlan) -> list[list[torch.Tensor]]:
    """For q [Q, H, D], the last queries over k [N, K, D]: ascending key positions of each tile, by head."""
    span = Span(q.shape[0], k.shape[0])
    group = heads.heads // heads.kv_heads
    ranked = [i for i, p in enumerate(plan.patterns) if p.kind == "vertical-slash"]
    estimates = dict(zip(ranked, zip(*estimate_lines(q, k, heads, plan, ranked), strict=True), strict=True))
    found = []
    for head, pattern in enumerate(plan.patterns):
        if pattern.kind == "a-shape":
            found.append([a_shape(pattern, end) for _, end in plan.tiles(span)])
        elif pattern.kind == "vertical-slash":
            found.append(list(vertical_slash(pattern, plan, span, *estimates[head])))
        else:
            found.append(list(block_sparse(pattern, plan, span, q[:, head], k[:, head // group])))
    return found


def estimate_lines(
    q: torch.Tensor, k: torch.Tensor, heads: Heads, plan: SparsePlan, which: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of the last `last_q` queries of heads `which`, summed by column and by diagonal (distance
    back from the query): two [len(which), N]."""
    entries, rows = k.shape[0], plan.last_q
    if not which:
        return q.new_empty(0, entries), q.new_empty(0, entries)
    wanted = torch.tensor(which, device=q.device)
    last = q[-rows:].index_select(1, wanted).transpose(0, 1)
    keys = k.index_select(1, wanted // (heads.heads // heads.kv_heads)).permute(1, 2, 0)
    position = torch.arange(entries - rows, entries, device=q.device)[:, None]
    distance = position - torch.arange(entries, device=q.device)
    scores = capped(torch.bmm(last, keys), heads).masked_fill(distance < 0, float("-inf"))
    weights = scores.float().softmax(-1)
    diagonals = weights.new_zeros(len(which), entries)
    diagonals.scatter_add_(1, distance.clamp(min=0).expand(len(which), -1, -1).flatten(1), weights.flatten(1))
    return weights.sum(1), diagonals


def a_shape(pattern: HeadPattern, end: int) -> torch.Tensor:
    """The first keys, and the last before `end`."""
    return keys_of({*groups(0, pattern.vertical), *groups(end - pattern.slash, end)}, end)


def vertical_slash(
    pattern: HeadPattern, plan: SparsePlan, span: Span, columns: torch.Tensor, diagonals: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The keys of each tile: diagonals from the highest sum on until `slash` keys are read, then the
    `vertical` columns of the highest sums. columns, diagonals: sums [N]."""
    columns = columns.clone()
    columns[: plan.first] = float("inf")
    best = ranking(columns, pattern.vertical).sort().values
    lines = ranking(diagonals, pattern.slash).tolist()
    for start, end in plan.tiles(span):
        read = set(groups(start - plan.local + 1, end))
        for line in lines:
            if len(read) * GROUP >= pattern.slash:
                break
            read.update(groups(start - line, end - line))
        yield keys_of(read, end, best)


def block_sparse(
    pattern: HeadPattern, plan: SparsePlan, span: Span, q: torch.Tensor, k: torch.Tensor
) -> Iterator[torch.Tensor]:
    """The keys of each tile: blocks of `tile` keys, those first whose mean is nearest to the mean query.
    q [Q, D], k [N, D]."""
    size = plan.tile
    means = torch.stack([block.float().mean(0) for block in torch.split(k, size)])
    queries = torch.stack([tile.float().mean(0) for tile in torch.split(q, size)])
    scores = queries @ means.T
    for row, (start, end) in enumerate(plan.tiles(span)):
        read = set(groups(start, end))
        for block in ranking(scores[row, : -(-end // size)], pattern.keys // size).tolist():
            if len(read) * GROUP >= pattern.keys:
                break
            read.update(groups(block * size, min(block * size + size, end)))
        yield keys_of(read, end)


def ranking(scores: torch.Tensor, most: int) -> torch.Tensor:
    """Positions of the `most` highest scores, highest first, of equals the lower one."""
    return scores.sort(descending=True, stable=True).indices[:most]


def groups(first: int, end: int) -> range:
    """Groups that hold keys first … end - 1, as far as there are any."""
    return range(max(0, first) // GROUP, max(0, end + GROUP - 1) // GROUP)


def keys_of(read: set[int], end: int, columns: torch.Tensor | None = None) -> torch.Tensor:
    """Keys before `end` of the groups `read`, and the `columns` that are in none of them: ascending."""
    where = None if columns is None else columns.device
    ordered = torch.tensor(sorted(read), device=where)
    keys = (ordered[:, None] * GROUP + torch.arange(GROUP, device=where)).flatten()
    if columns is not None:
        alone = columns[~torch.isin(columns // GROUP, ordered)]
        keys = torch.cat([keys, alone]).sort().values
    return keys[keys < end]
