"""Which block appears where: the bookkeeping of contiguous virtual caches, the same on every device.

A row is a range of addresses for one sequence at a time, as long as the longest could get. Entry i of row r's
list is the block that appears at the i-th place of its range; the engine's block tables say which should.
What differs is mapped, so a sequence grows without copying, and two rows that begin with the same blocks
share their pages.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from twofold.models.cache import CacheSize


class Run(NamedTuple):
    """`length` blocks from `block` on that appear in `row` from its place `place` on."""

    row: int
    place: int
    block: int
    length: int


def fit_factor(parts: Sequence[int], page: int) -> int:
    """The least factor by which blocks must grow for each of `parts` (bytes) to be a multiple of `page`."""
    return math.lcm(*(page // math.gcd(page, part) for part in parts))


class PageMap:
    """The places of all rows of a cache of `size`.

    pages_per_block, block_bytes: of all tensors of all layers together. counters: pages and bytes that were
    mapped, and of these pages those mapped ahead of need; pages unmapped or replaced by others; pages found
    in their place from an earlier sequence (reused); pages that a row shares with another one; bytes of
    blocks that have physical memory now (resident).
    """

    def __init__(self) -> None:
        self.counters = dict.fromkeys(
            (
                "pages_mapped",
                "pages_mapped_ahead",
                "bytes_mapped",
                "pages_unmapped",
                "pages_reused",
                "pages_shared",
                "resident_bytes",
            ),
            0,
        )

    def begin(self, size: CacheSize, pages_per_block: int, block_bytes: int) -> None:
        """Start with nothing mapped."""
        self.size = size
        self.pages_per_block, self.block_bytes = pages_per_block, block_bytes
        self._places: list[list[int]] = [[] for _ in range(size.max_seqs)]
        self._held: list[list[int]] = [[] for _ in range(size.max_seqs)]
        self._rows_of: Counter[int] = Counter()
        self._resident: set[int] = set()

    def held(self, row: int) -> Sequence[int]:
        """The blocks of the sequence in `row`."""
        return self._held[row]

    def place(self, row: int, table: Sequence[int], needed: int) -> tuple[list[Run], list[Run]]:
        """Let `row` show the blocks `table`. Returns what has to be mapped for that: of the first `needed`
        places, which are about to be used, and of the others."""
        table = list(table)
        self._hold(row, table)
        places = self._places[row]
        now: list[Run] = []
        ahead: list[Run] = []
        if places[: len(table)] == table:
            return now, ahead
        for i, block in enumerate(table):
            if i == len(places):
                places.append(block)
            elif places[i] != block:
                places[i] = block
                self.counters["pages_unmapped"] += self.pages_per_block
            else:
                continue
            _append(now if i < needed else ahead, Run(row, i, block, 1))
        self._count(now)
        self.counters["pages_mapped_ahead"] += self._count(ahead)
        return now, ahead

    def release(self, row: int) -> None:
        """The sequence in `row` is gone; what appears there stays until something else does."""
        self._hold(row, [])

    def clear(self, row: int) -> int:
        """Let nothing appear in `row`. Returns the places that had something."""
        places = self._places[row]
        count = len(places)
        self.counters["pages_unmapped"] += count * self.pages_per_block
        places.clear()
        return count

    def stale_rows(self) -> list[int]:
        """Rows that show blocks of a sequence that is gone."""
        return [row for row, places in enumerate(self._places) if places and not self._held[row]]

    def hold(self, blocks: Iterable[int]) -> list[Run]:
        """`blocks` get physical memory. Returns them in runs, those that had none."""
        runs: list[Run] = []
        for block in sorted(set(blocks) - self._resident):
            _append(runs, Run(0, block, block, 1))
        self._have(runs)
        return runs

    def give_back(self, blocks: Iterable[int]) -> list[Run]:
        """The physical memory of `blocks` is returned. Returns them in runs, those that had any."""
        runs: list[Run] = []
        for block in sorted(self._resident.intersection(blocks)):
            self._resident.remove(block)
            _append(runs, Run(0, block, block, 1))
        self.counters["resident_bytes"] = len(self._resident) * self.block_bytes
        return runs

    def _hold(self, row: int, table: list[int]) -> None:
        """Account for the blocks of the row's sequence, which is new where it held none."""
        held = self._held[row]
        same = min(len(held), len(table))
        if held[:same] != table[:same]:
            same = next(i for i in range(same) if held[i] != table[i])
        if same == len(held) == len(table):
            return
        for block in held[same:]:
            self._rows_of[block] -= 1
        places = self._places[row]
        for i, block in enumerate(table[same:], same):
            self._rows_of[block] += 1
            if self._rows_of[block] > 1:
                self.counters["pages_shared"] += self.pages_per_block
            if i < len(places) and places[i] == block:
                self.counters["pages_reused"] += self.pages_per_block
        held[same:] = table[same:]

    def _count(self, runs: list[Run]) -> int:
        """Count `runs` as mapped. Returns their pages."""
        blocks = sum(run.length for run in runs)
        pages = blocks * self.pages_per_block
        self.counters["pages_mapped"] += pages
        self.counters["bytes_mapped"] += blocks * self.block_bytes
        self._have(runs)
        return pages

    def _have(self, runs: list[Run]) -> None:
        """The blocks of `runs` have memory now."""
        for run in runs:
            self._resident.update(range(run.block, run.block + run.length))
        self.counters["resident_bytes"] = len(self._resident) * self.block_bytes


def _append(runs: list[Run], run: Run) -> None:
    """Add a run of one block, to the last one where it goes on with that."""
    if runs:
        last = runs[-1]
        if run[:3] == (last.row, last.place + last.length, last.block + last.length):
            runs[-1] = last._replace(length=last.length + 1)
            return
    runs.append(run)
