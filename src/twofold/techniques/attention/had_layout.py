"""How many entries attention over signs compares and keeps: counting, no tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from twofold.ops.attention import Span


@dataclass(frozen=True, slots=True)
class TopN:
    """A query that sees v entries keeps `n`, and of more than `context` the same share: max(n, v · n /
    context)."""

    n: int
    context: int

    def kept(self, seen: int) -> int:
        """Entries that a query which sees `seen` attends to."""
        return min(seen, max(self.n, seen * self.n // self.context))

    def runs(self, first: int, entries: int, window: int | None, most: int) -> Iterator[tuple[int, int, int]]:
        """Queries that stand at entries `first` … `entries` - 1 in runs (begin, end, kept) of at most `most`
        that keep equally many."""

        def kept(query: int) -> int:
            seen = first + query + 1
            return self.kept(seen if window is None else min(seen, window))

        begin = 0
        for end in range(1, entries - first + 1):
            if end == entries - first or end - begin == most or kept(end) != kept(begin):
                yield begin, end, kept(begin)
                begin = end


class Compared(NamedTuple):
    """What a batch compares and keeps, in pairs of a query and an entry of one head; entries: keys read,
    values: entries of a KV head whose values are read at most."""

    seen: int
    kept: int
    entries: int
    values: int


@dataclass(slots=True)
class HadLayout:
    """What batches compare and keep. The layers of a model share it, as they count the same batch one by one.

    counters: pairs of the batches counted so far, once per batch and sliding window.
    """

    top: TopN
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("entries_compared", "entries_attended"), 0)
    )
    _memo: dict[tuple[int | None, int], tuple[Sequence[Span], Compared]] = field(default_factory=dict)
    _kept_below: list[int] = field(default_factory=lambda: [0])

    def compared(self, spans: Sequence[Span], window: int | None, group: int) -> Compared:
        """What attention with that sliding window compares, `group` query heads sharing a KV head."""
        known = self._memo.get((window, group))
        if known is not None and known[0] is spans:
            return known[1]
        seen = kept = entries = values = 0
        for queries, visible in spans:
            if queries == 1:  # most of them
                reads = pairs = visible if window is None or visible < window else window
                attended = self.top.kept(reads)
            else:
                pairs, attended, reads = self._several(queries, visible, window)
            seen += pairs
            kept += attended
            entries += reads
            values += min(reads, group * attended)
        found = Compared(seen, kept, entries, values)
        self._memo[window, group] = (spans, found)
        self.counters["entries_compared"] += seen
        self.counters["entries_attended"] += kept
        return found

    def _several(self, queries: int, visible: int, window: int | None) -> tuple[int, int, int]:
        """Pairs, kept pairs and keys read of a span of several queries."""
        first = visible - queries  # its queries see first + 1 … visible entries, as far as the window goes
        most = visible if window is None else min(visible, window)
        least = min(first, most)
        beyond = queries - (most - least)
        pairs = (most * (most + 1) - least * (least + 1)) // 2 + beyond * most
        kept = self._sum(most) - self._sum(least) + beyond * self.top.kept(most)
        return pairs, kept, visible if window is None else min(visible, window + queries - 1)

    def _sum(self, seen: int) -> int:
        """Entries kept by queries that see 1 … `seen`, added up."""
        below = self._kept_below
        for more in range(len(below), seen + 1):
            below.append(below[-1] + self.top.kept(more))
        return below[seen]
