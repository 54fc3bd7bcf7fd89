"""The manager of contiguous virtual caches that runs beside the computation: what `engine.paging.Paging` asks
for, by the rules that vAttention and vTensor set.

What a step needs is mapped before it; what its sequences will need next is mapped by a thread while it is
computed, and on a modelled device takes no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer, CacheSize
from twofold.models.step import StepInput
from twofold.ops.movement import MapPages
from twofold.techniques.placement.kernel_pages import OutOfMappingsError
from twofold.techniques.placement.page_map import PageMap, Run, fit_factor
from twofold.techniques.placement.virtual_caches import VirtualCaches


class Pager:
    """Maps blocks by their tables.

    page: bytes of a page; None: the least that the device maps. lookahead: tokens ahead of need for which
    blocks are mapped. keep: what a finished sequence leaves in its row stays mapped for the next one there,
    and its memory in the pool; otherwise it is unmapped at once, and memory that belongs to nobody goes back
    to the system.
    """

    def __init__(self, page: int | None, *, lookahead: int, keep: bool) -> None:
        self.page = page
        self.lookahead = lookahead
        self.keep = keep
        self.pages = PageMap()
        self.counters = self.pages.counters
        self.storage: VirtualCaches | None = None
        self._page_bytes = 0
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def fit(self, parts: Sequence[int], page_bytes: int) -> int:
        """See `Paging.fit`."""
        self._page_bytes = self.page or page_bytes
        return fit_factor(parts, self._page_bytes)

    def prepare(self, caches: Sequence[CacheLayer], size: CacheSize) -> None:
        """See `Paging.prepare`."""
        self._caches, self._size = caches, size
        self._tensors = sum(len(cache.block_parts()) for cache in caches)
        block_bytes = sum(cache.block_bytes() for cache in caches)
        self.pages.begin(size, block_bytes // self._page_bytes, block_bytes)

    def allocate(self, where: torch.device) -> None:
        """See `Paging.allocate`."""
        self.storage = VirtualCaches(self._caches, self._size, self._page_bytes, where)

    def hold(self, blocks: Sequence[int]) -> None:
        """See `Paging.hold`."""
        self._wait()
        runs = self.pages.hold(blocks)
        if self.storage is not None:
            self.storage.hold(runs)

    def held(self, row: int) -> Sequence[int]:
        """See `Paging.held`."""
        return self.pages.held(row)

    def map(self, step: StepInput, device: Device) -> None:
        """See `Paging.map`."""
        if not step.rows:
            return  # a step of many alike that are only counted: see `follow`
        self._wait()
        size = self._size.block_size
        now: list[Run] = []
        ahead: list[Run] = []
        for row, table, span in zip(step.rows, step.block_tables, step.spans, strict=True):
            needed = -(-span.keys // size) if self.lookahead else len(table)
            at_once, later = self.pages.place(row, table, needed)
            now += at_once
            ahead += later
        if now:
            count = sum(run.length for run in now) * self.pages.pages_per_block
            op = MapPages(count, self._page_bytes, len(now) * self._tensors)
            device.execute(op, lambda: self.show(now))
        if self.storage is not None:
            if ahead:
                self._start(ahead)
            self._address(step)

    def follow(self, row: int, table: Sequence[int]) -> None:
        """See `Paging.follow`."""
        self.pages.place(row, table, 0 if self.lookahead else len(table))

    def release(self, row: int, free: Sequence[int]) -> None:
        """See `Paging.release`."""
        self._wait()
        self.pages.release(row)
        if self.keep:
            return
        places = self.pages.clear(row)
        runs = self.pages.give_back(free)
        if self.storage is not None and places:
            self.storage.unmap(row, places)
            self.storage.give_back(runs)

    def show(self, runs: list[Run]) -> None:
        """Map `runs` now; where the system allows no more mappings, what finished sequences left is unmapped
        first."""
        assert self.storage is not None
        try:
            self.storage.map(runs)
        except OutOfMappingsError:
            for row in self.pages.stale_rows():
                self.storage.unmap(row, self.pages.clear(row))
            try:
                self.storage.map(runs)
            except OutOfMappingsError as error:
                raise RuntimeError(
                    f"{error}: use larger pages, fewer cache blocks, or raise vm.max_map_count"
                ) from None

    def _start(self, runs: list[Run]) -> None:
        """Map `runs` while something else is computed."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "twofold-pager")
        self._pending = self._thread.submit(self.show, runs)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _address(self, step: StepInput) -> None:
        """Let `step` address its entries by the rows of its sequences."""
        size = self._size.block_size
        places = self._size.num_blocks
        slots: list[int] = []
        starts: list[int] = []
        tables: list[range] = []
        for row, (queries, keys) in zip(step.rows, step.spans, strict=True):
            first = row * places
            start = first * size
            slots += range(start + keys - queries, start + keys)
            starts.append(start)
            tables.append(range(first, first - (-keys // size)))
        assert step.slots is not None
        where = step.slots.device
        step.move_to(torch.tensor(slots, device=where), [list(t) for t in tables], starts)
