"""Which entries of a KIVI cache are packed, and how many a batch reads and writes: counting, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from twofold.ops.attention import Span


class Moved(NamedTuple):
    """Tokens read or written by a batch: keys and values that are packed, and those in full precision."""

    packed_keys: int
    packed_values: int
    full_keys: int
    full_values: int


@dataclass(slots=True)
class Layout:
    """Which entries are packed. The layers of a model share it, as they count the same batch one by one.

    counters: tokens of the batches counted so far, once per batch and sliding window.
    """

    bits: int
    group: int
    residual: int
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("keys_packed", "values_packed", "packed_tokens_read", "full_tokens_read"), 0
        )
    )
    _reads: dict[int | None, tuple[Sequence[Span], Moved]] = field(default_factory=dict)
    _writes: tuple[Sequence[Span], Moved] | None = None

    def packed(self, entries: int) -> tuple[int, int]:
        """(keys, values) packed of a sequence of `entries`.

        Keys leave the window when it is full, all `residual` at a time; values leave it one by one.
        """
        return entries - entries % self.residual, max(0, entries - self.residual)

    def begin(self, span: Span, window: int | None) -> int:
        """The first entry that any query of `span` may see."""
        return 0 if window is None else max(0, span.keys - span.queries - window + 1)

    def reads(self, spans: Sequence[Span], window: int | None) -> Moved:
        """What attention reads in layers with that sliding window; packed keys in whole groups."""
        known = self._reads.get(window)
        if known is not None and known[0] is spans:
            return known[1]
        entries = packed_keys = packed_values = 0
        if window is None:  # nearly always: counted without calls, since this is done for every step
            for queries, visible in spans:
                before = visible - queries
                entries += visible
                packed_keys += before - before % self.residual
                if before > self.residual:
                    packed_values += before - self.residual
            moved = Moved(packed_keys, packed_values, entries - packed_keys, entries - packed_values)
        else:
            moved = self._windowed_reads(spans, window)
        self._reads[window] = (spans, moved)
        self.counters["packed_tokens_read"] += moved.packed_values
        self.counters["full_tokens_read"] += moved.full_values
        return moved

    def _windowed_reads(self, spans: Sequence[Span], window: int) -> Moved:
        total = [0, 0, 0, 0]
        for span in spans:
            begin = self.begin(span, window)
            keys, values = self.packed(span.keys - span.queries)
            total[0] += max(0, keys - begin // self.group * self.group)
            total[1] += max(0, values - begin)
            total[2] += span.keys - max(begin, keys)
            total[3] += span.keys - max(begin, values)
        return Moved(*total)

    def writes(self, spans: Sequence[Span]) -> Moved:
        """What is written, were no draft voided."""
        if self._writes is not None and self._writes[0] is spans:
            return self._writes[1]
        total = [0, 0, 0, 0]
        for queries, entries in spans:
            keys, values = self.packed(entries - queries)
            new_keys, new_values = self.packed(entries)
            total[0] += new_keys - keys
            total[1] += new_values - values
            total[2] += min(queries, entries - new_keys)
            total[3] += min(queries, entries - new_values)
        moved = Moved(*total)
        self._writes = (spans, moved)
        self.counters["keys_packed"] += moved.packed_keys
        self.counters["values_packed"] += moved.packed_values
        return moved
