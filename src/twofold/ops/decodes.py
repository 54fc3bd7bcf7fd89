"""The spans of steps in which every sequence decodes one token: described by sums that are known, step after
step, without going through the sequences."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import overload

from twofold.ops.attention import Span, SpanTotals


class Contexts:
    """Cached entries that each sequence sees in a first such step, its new one included. `keys` must not
    change any more."""

    __slots__ = ("_ascending", "_sums", "keys", "longest", "total")

    def __init__(self, keys: Sequence[int]) -> None:
        assert keys
        self.keys = keys
        self.total = sum(keys)
        self.longest = max(keys)
        self._ascending: list[int] = []
        self._sums: list[int] = []

    def within(self, limit: int) -> tuple[int, int]:
        """Number and sum of the contexts of at most `limit`."""
        if not self._ascending:
            self._ascending = sorted(self.keys)
            self._sums = list(accumulate(self._ascending, initial=0))
        count = bisect_right(self._ascending, limit)
        return count, self._sums[count]


class DecodeSpans(Sequence[Span]):
    """The spans `later` steps after the first: one query each, and `later` keys more."""

    __slots__ = ("contexts", "later")

    def __init__(self, contexts: Contexts, later: int = 0) -> None:
        self.contexts = contexts
        self.later = later

    def __len__(self) -> int:
        return len(self.contexts.keys)

    def __iter__(self) -> Iterator[Span]:
        return (Span(1, keys + self.later) for keys in self.contexts.keys)

    @overload
    def __getitem__(self, index: int) -> Span: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...

    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        if isinstance(index, slice):
            return list(self)[index]
        return Span(1, self.contexts.keys[index] + self.later)

    def totals(self, window: int | None) -> SpanTotals:
        """What `total_spans` gives."""
        contexts, later, seqs = self.contexts, self.later, len(self)
        keys, longest = contexts.total + later * seqs, contexts.longest + later
        if window is not None and longest > window:
            whole, total = contexts.within(window - later)
            keys = total + whole * later + (seqs - whole) * window
            longest = window
        return SpanTotals(seqs, seqs, keys, keys, longest, seqs, keys)
