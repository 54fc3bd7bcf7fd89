"""Attention over a cache, and writing to that cache.

An attention op describes a whole batch by sums over its sequences, so that it is small, exact and cheap to
make: what a step costs depends on how many query-key pairs are computed and how many cached bytes are read,
not on which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from twofold.ops.base import DEVICE, Cost, Op, Precision, Traffic

Split = Literal["auto", "none", "fixed", "even"]
"""How units share the keys of one sequence and head: never; cut into a fixed number of parts where there are
units to spare; or so that all units have equally many."""

QUERY_TILE = 64
"""Query rows that a prefill kernel handles at once; keys that none of them may see are skipped."""


class Span(NamedTuple):
    """One sequence's part of a step: `queries` new tokens, the last of which sees `keys` cached entries."""

    queries: int
    keys: int


class SpanTotals(NamedTuple):
    """Sums over the spans of a batch: sequences, query tokens, keys read, (query, key) pairs computed,
    longest context; singles, single_keys: the sequences of one query (decode), and the keys they read."""

    num_seqs: int
    queries: int
    keys: int
    pairs: int
    max_keys: int
    singles: int
    single_keys: int


def span_pairs(queries: int, keys: int, window: int | None = None) -> tuple[int, int]:
    """(keys read, query-key pairs computed) of one span when queries are handled in tiles of QUERY_TILE rows.

    A tile computes the rectangle of its rows and the keys that any of them sees; rectangles are what kernels
    multiply.
    """
    if queries == 1:
        seen = keys if window is None else min(keys, window)
        return seen, seen
    first = keys - queries
    read_from = first if window is None else max(0, first - window + 1)
    pairs = 0
    for start in range(0, queries, QUERY_TILE):
        rows = min(QUERY_TILE, queries - start)
        last = first + start + rows
        begin = 0 if window is None else max(0, first + start - window + 1)
        pairs += rows * (last - begin)
    return (keys if window is None else keys - read_from), pairs


def total_spans(spans: Iterable[tuple[int, int]], window: int | None = None) -> SpanTotals:
    """The sums that describe `spans` to an attention op; `window` limits how far back a query sees."""
    seqs = queries = keys = pairs = longest = singles = single_keys = 0
    for q, k in spans:
        if q == 1:  # most of them: counted here, since this is where predictions spend their time
            read = k if window is None or k < window else window
            singles += 1
            single_keys += read
        else:
            read, computed = span_pairs(q, k, window)
            seqs += 1
            queries += q
            keys += read
            pairs += computed
        if read > longest:
            longest = read
    return SpanTotals(
        seqs + singles,
        queries + singles,
        keys + single_keys,
        pairs + single_keys,
        longest,
        singles,
        single_keys,
    )


@dataclass(frozen=True, slots=True)
class Attention(Op):
    """softmax(q k^T · scale) v of every query over its sequence's cache: [queries, heads, v_dim].

    cache_bytes: bytes read from the cache, counted by the cache layer that stores them (a quantised cache
    reads fewer);
    widen_flop: elementwise operations to bring stored entries to the compute precision; format: how they are
    stored, "" as activations are. rows: queries that a unit goes through together where the algorithm says so
    (0: as a device's kernels do); split: how units share the keys of a sequence ("auto": as a device's
    kernels do).
    """

    kind: ClassVar[str] = "attention"
    totals: SpanTotals
    heads: int
    kv_heads: int
    head_dim: int
    v_dim: int
    cache_bytes: int
    compute: Precision
    act_bytes: int
    widen_flop: int = 0
    space: str = DEVICE
    format: str = ""
    rows: int = 0
    split: Split = "auto"

    def cost(self) -> Cost:
        """2 FLOP per pair, head and dimension for the scores, as many for the values; about 5 per score for
        the softmax."""
        t = self.totals
        return Cost(
            flop=2.0 * t.pairs * self.heads * (self.head_dim + self.v_dim),
            vector_flop=5.0 * t.pairs * self.heads + self.widen_flop,
            precision=self.compute,
            traffic=(
                Traffic("cache", self.cache_bytes, 0, self.space),
                Traffic(
                    "activations",
                    t.queries * self.heads * self.head_dim * self.act_bytes,
                    t.queries * self.heads * self.v_dim * self.act_bytes,
                ),
            ),
        )


@dataclass(frozen=True, slots=True)
class CacheWrite(Op):
    """Put the keys and values of `tokens` new tokens into the cache, `cache_bytes` as stored there.

    format: how they are stored, "" as activations are.
    """

    kind: ClassVar[str] = "cache-write"
    tokens: int
    width: int
    cache_bytes: int
    act_bytes: int
    pack_flop: int = 0
    space: str = DEVICE
    format: str = ""

    def cost(self) -> Cost:
        """Reads the new entries, writes them in the cache's format; packing costs `pack_flop` elementwise
        operations."""
        return Cost(
            vector_flop=float(self.pack_flop),
            traffic=(
                Traffic("activations", self.tokens * self.width * self.act_bytes),
                Traffic("cache", 0, self.cache_bytes, self.space),
            ),
        )
