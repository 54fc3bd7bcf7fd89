"""Exact attention in the orders that papers compute it in: the same result as `Attention`, with other traffic
between a small memory on the chip (SRAM) and the one behind it, and another spread over units.

`io` counts elements that cross the SRAM's edge, one head after the other; `cost` counts what a device's
memory sees, where keys and values that pass again come from its last cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import Any, ClassVar, NamedTuple, TypeVar

from twofold.ops.attention import Attention, Span
from twofold.ops.base import Cost, Op, Traffic

SINGLE = 4
"""Bytes of a statistic of a row: maximum, sum of weights."""


@dataclass(frozen=True, slots=True)
class KeysOutside(Attention):
    """Blocks of keys outside, and for each of them all queries that see it: outputs and two statistics of
    each query are read, changed and written again (FlashAttention, arXiv:2205.14135, algorithm 1).

    visits: (query, block of keys) pairs of one head.
    """

    key_block: int = 0
    query_block: int = 0
    visits: int = 0

    @property
    def io(self) -> int:
        """Elements that cross the SRAM's edge, all heads."""
        per_visit = self.head_dim + 2 * self.v_dim + 4
        return self.heads * (self.totals.keys * (self.head_dim + self.v_dim) + self.visits * per_visit)

    def cost(self) -> Cost:
        """As plain attention; queries and outputs pass once per visit, and each visit scales an output twice
        and adds to it."""
        cost = Attention.cost(self)
        visits = self.visits * self.heads
        return Cost(
            flop=cost.flop,
            vector_flop=cost.vector_flop + 3.0 * visits * self.v_dim,
            precision=cost.precision,
            traffic=(
                cost.traffic[0],
                Traffic(
                    "activations",
                    visits * ((self.head_dim + self.v_dim) * self.act_bytes + 2 * SINGLE),
                    visits * (self.v_dim * self.act_bytes + 2 * SINGLE),
                ),
            ),
        )


@dataclass(frozen=True, slots=True)
class QueriesOutside(Attention):
    """Blocks of queries outside, whose outputs stay until all keys that they see have passed
    (FlashAttention-2, arXiv:2307.08691, algorithm 1).

    passes: (block of queries, key) pairs of one head; visits: (query, block of keys) pairs of one head.
    """

    key_block: int = 0
    query_block: int = 0
    passes: int = 0
    visits: int = 0

    @property
    def io(self) -> int:
        """Elements that cross the SRAM's edge, all heads: the logarithm of each row's sum among them."""
        t = self.totals
        own = t.queries * (self.head_dim + self.v_dim + 1)
        return self.heads * (own + self.passes * (self.head_dim + self.v_dim))

    def cost(self) -> Cost:
        """As plain attention; each visit scales an output once, and each output is divided at the end."""
        cost = Attention.cost(self)
        scaled = (self.visits + self.totals.queries) * self.heads * self.v_dim
        return Cost(cost.flop, cost.vector_flop + scaled, cost.precision, cost.traffic)


@dataclass(frozen=True, slots=True)
class LeanAttention(Attention):
    """Decode attention whose tiles of keys are dealt out evenly: every worker has a stretch of them, across
    sequences and heads, and leaves a state for each output that it shares (arXiv:2405.10480).

    tile: keys of a tile; workers: that share them at most; partials: states that are written and read again,
    times query rows; busiest: tiles of the worker that has most; dealt: tiles of all.
    """

    tile: int = 0
    workers: int = 0
    partials: int = 0
    busiest: int = 0
    dealt: int = 0

    @property
    def balance(self) -> float:
        """Mean over largest number of tiles of a worker: 1 where all have equally many."""
        return self.dealt / (min(self.workers, self.dealt) * self.busiest)

    def cost(self) -> Cost:
        """As plain attention, and the states of outputs that several workers share; merging one scales two
        outputs and adds them."""
        cost = Attention.cost(self)
        nbytes = self.partials * (self.v_dim + 2) * SINGLE
        read, written = cost.traffic[1].read, cost.traffic[1].written
        return Cost(
            cost.flop,
            cost.vector_flop + 3.0 * self.partials * self.v_dim,
            cost.precision,
            (cost.traffic[0], Traffic("activations", read + nbytes, written + nbytes)),
        )


@dataclass(frozen=True, slots=True)
class TwoPassAttention(Attention):
    """Attention whose softmax takes no maximum: exponentials are pairs of a mantissa and an exponent, which
    cannot overflow (arXiv:2001.04438)."""

    def cost(self) -> Cost:
        """As plain attention, with each exponential computed twice and no maximum: about 8 operations per
        score instead of 5."""
        cost = Attention.cost(self)
        more = 3.0 * self.totals.pairs * self.heads
        return Cost(cost.flop, cost.vector_flop + more, cost.precision, cost.traffic)


Kind = TypeVar("Kind", bound=Attention)
_SHARED = tuple(field.name for field in fields(Attention))


def in_place_of(plain: Attention, kind: type[Kind], **own: Any) -> Kind:
    """An op of `kind` for what `plain` does, with fields of its own, or other values."""
    shared = {name: getattr(plain, name) for name in _SHARED}
    return kind(**{**shared, **own})


@dataclass(frozen=True, slots=True)
class RowSoftmax(Op):
    """Softmax of `rows` of `columns` float32. passes: 3 find the maximum, add up exponentials, and compute
    them again; 2 need no maximum (arXiv:2001.04438)."""

    kind: ClassVar[str] = "softmax"
    rows: int
    columns: int
    passes: int

    def cost(self) -> Cost:
        """A row is read in each pass and written in the last; two exponentials of about 8 operations per
        number, and a comparison, an addition and a product."""
        numbers = self.rows * self.columns
        traffic = Traffic("activations", SINGLE * numbers * self.passes, SINGLE * numbers)
        return Cost(vector_flop=19.0 * numbers, traffic=(traffic,))


# --- counting the loops ---


def visits_of(span: Span, key_block: int) -> int:
    """(query, block of keys) pairs of a causal span: a query visits every block of which it sees a key."""
    first = span.keys - span.queries
    found = 0
    for begin in range(0, span.keys, key_block):
        found += span.queries - max(0, begin - first)
    return found


def passes_of(span: Span, query_block: int) -> int:
    """(block of queries, key) pairs of a causal span: a block lets all keys pass that its last query sees."""
    first = span.keys - span.queries
    ends = range(query_block, span.queries + query_block, query_block)
    return sum(first + min(end, span.queries) for end in ends)


class Segment(NamedTuple):
    """Tiles first … last - 1 of output number `output`, which one worker goes over."""

    output: int
    first: int
    last: int


def deal_tiles(tiles: Sequence[int], workers: int) -> list[list[Segment]]:
    """The segments of each worker, where output i takes `tiles[i]` tiles: stretches of a line of all tiles
    that differ by one tile at most."""
    total = sum(tiles)
    workers = max(1, min(workers, total))
    ends = [total * (i + 1) // workers for i in range(workers)]
    found: list[list[Segment]] = [[] for _ in ends]
    worker = at = 0
    for output, count in enumerate(tiles):
        first = 0
        while first < count:
            take = min(count - first, ends[worker] - at)
            if take:
                found[worker].append(Segment(output, first, first + take))
            first, at = first + take, at + take
            if at == ends[worker] and worker + 1 < workers:
                worker += 1
    return found


def tiles_of(span: Span, tile: int) -> int:
    """Tiles of keys of a sequence."""
    return ceil(span.keys / tile)
