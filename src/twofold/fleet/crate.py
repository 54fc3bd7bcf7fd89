"""Crate: cache blocks in memory that two processes share, on their way from one instance to another."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path

import torch

from twofold.models.cache import CacheLayer


class Crate:
    """Room for `count` blocks of each of `caches` in the file `path`, which both processes map.

    The caches of two instances of a plan are alike, so both lay a crate out in the same way.
    """

    def __init__(self, path: Path, caches: Sequence[CacheLayer], count: int, *, new: bool) -> None:
        self.caches = caches
        stores = [cache.physical or cache.tensors for cache in caches]
        sizes = [t[0].numel() * t.element_size() * count for store in stores for t in store.values()]
        total = sum(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes)
        with path.open("w+b" if new else "r+b") as file:
            if new:
                file.truncate(total)
            pages = mmap.mmap(file.fileno(), total)
        self._inside: list[dict[str, torch.Tensor]] = []
        at = 0
        for store in stores:
            inside = {}
            for name, tensor in store.items():
                shape = (count, *tensor.shape[1:])
                flat = torch.frombuffer(pages, dtype=tensor.dtype, count=math.prod(shape), offset=at)
                inside[name] = flat.view(shape)
                size = flat.numel() * flat.element_size()
                at += -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
            self._inside.append(inside)

    def fill(self, table: Sequence[int]) -> None:
        """Copy the blocks `table` of the caches into the crate."""
        self._copy(table, out=True)

    def empty(self, table: Sequence[int]) -> None:
        """Copy the crate into the blocks `table` of the caches."""
        self._copy(table, out=False)

    def _copy(self, table: Sequence[int], *, out: bool) -> None:
        pairs = [(block, place) for place, block in enumerate(table)]
        for cache, inside in zip(self.caches, self._inside, strict=True):
            cache.copy_blocks(pairs, inside, out=out)
