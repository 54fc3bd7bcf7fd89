"""Crate: cache blocks in memory that two processes share, on their way from one instance to another; all at
once, or layer by layer while they are computed."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

import torch

from twofold.models.cache import CacheLayer

LOOK_SECONDS = 0.0005
"""How often it is looked for the next layer of a crate."""


class Crate:
    """Room for `count` blocks of each of `caches` in the file `path`, which both processes map. What it
    begins with says which layers are inside, and whether the step that they were computed in is over.

    The caches of two instances of a plan are alike, so both lay a crate out in the same way.
    """

    def __init__(self, path: Path, caches: Sequence[CacheLayer], count: int, *, new: bool) -> None:
        self.caches = caches
        stores = [cache.blocks for cache in caches]
        sizes = [t[0].numel() * t.element_size() * count for store in stores for t in store.values()]
        at = _pages(len(caches) + 1)
        total = at + sum(map(_pages, sizes))
        with path.open("w+b" if new else "r+b") as file:
            if new:
                file.truncate(total)
            pages = mmap.mmap(file.fileno(), total)
        self._flags = pages
        self._inside: list[dict[str, torch.Tensor]] = []
        for store in stores:
            inside = {}
            for name, tensor in store.items():
                shape = (count, *tensor.shape[1:])
                flat = torch.frombuffer(pages, dtype=tensor.dtype, count=math.prod(shape), offset=at)
                inside[name] = flat.view(shape)
                at += _pages(flat.numel() * flat.element_size())
            self._inside.append(inside)

    def fill(self, table: Sequence[int]) -> None:
        """Copy the blocks `table` of the caches into the crate."""
        for layer in range(len(self.caches)):
            self.fill_layer(layer, table)

    def empty(self, table: Sequence[int]) -> None:
        """Copy the crate into the blocks `table` of the caches."""
        for layer in range(len(self.caches)):
            self.empty_layer(layer, table)

    def fill_layer(self, layer: int, table: Sequence[int]) -> None:
        """Copy one layer of the blocks `table` into the crate."""
        self._copy(layer, table, out=True)
        self._flags[layer] = 1

    def empty_layer(self, layer: int, table: Sequence[int]) -> None:
        """Copy one layer of the crate into the blocks `table`."""
        self._copy(layer, table, out=False)

    def has(self, layer: int) -> bool:
        """Whether a layer is inside."""
        return bool(self._flags[layer])

    @property
    def is_over(self) -> bool:
        """Whether the step that the layers were computed in is over."""
        return bool(self._flags[len(self.caches)])

    def end(self) -> None:
        """It is over."""
        self._flags[len(self.caches)] = 1

    def _copy(self, layer: int, table: Sequence[int], *, out: bool) -> None:
        pairs = [(block, place) for place, block in enumerate(table)]
        self.caches[layer].copy_blocks(pairs, self._inside[layer], out=out)


class CrateOutlet:
    """What fills a crate with the blocks `table`, layer by layer: a `fleet.layerwise.Outlet`."""

    def __init__(self, crate: Crate, table: list[int]) -> None:
        self._crate, self._table = crate, table

    def put(self, layer: int) -> None:
        """Fill one layer."""
        self._crate.fill_layer(layer, self._table)

    def close(self) -> None:
        """The step is over."""
        self._crate.end()


class Unloading:
    """Copies a crate into the blocks `table`, layer by layer as they come, in a thread of its own."""

    def __init__(self, crate: Crate, table: list[int]) -> None:
        self._crate, self._table = crate, table
        self._bytes = 0
        self._enough = Event()
        self._thread = Thread(target=self._run, name="unloading", daemon=True)
        self._thread.start()

    def arrived(self) -> int:
        """Wait until all of it is there; the bytes that were when the step was over."""
        self._thread.join()
        return self._bytes

    def stop(self) -> None:
        """Copy no more: the blocks are somebody else's from here on."""
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        for layer, cache in enumerate(self._crate.caches):
            while not self._crate.has(layer):
                if self._enough.wait(LOOK_SECONDS):
                    return
            self._crate.empty_layer(layer, self._table)
            if not self._crate.is_over:
                self._bytes += len(self._table) * cache.block_bytes()


def _pages(nbytes: int) -> int:
    """`nbytes` in whole pages."""
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
