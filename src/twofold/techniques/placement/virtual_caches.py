"""The caches of a model in virtual memory: tensors over ranges of addresses, one behind the other for each
row, on which blocks of physical memory are made to appear."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from twofold.models.cache import CacheLayer, CacheSize
from twofold.techniques.placement.kernel_pages import PhysicalPages
from twofold.techniques.placement.page_map import Run


class _Part(NamedTuple):
    """One tensor: its address, the bytes of a block in it, and where its blocks begin in the file."""

    address: int
    nbytes: int
    offset: int


class VirtualCaches:
    """Storage of `caches` for `size.max_seqs` rows of `size.num_blocks` places each.

    `CacheLayer.tensors` are the virtual ranges, by place; `CacheLayer.physical` are the blocks themselves, by
    their numbers. ValueError where a block's part in some tensor is not whole pages of `page` bytes.
    """

    def __init__(self, caches: Sequence[CacheLayer], size: CacheSize, page: int, where: torch.device) -> None:
        if where.type != "cpu":
            raise ValueError(f"pages are mapped on a CPU; on {where.type} this can be predicted, not run")
        if page % mmap.PAGESIZE:
            raise ValueError(
                f"page size {page} is not a multiple of the {mmap.PAGESIZE} bytes that this machine maps by; "
                f"use {max(1, round(page / mmap.PAGESIZE)) * mmap.PAGESIZE}"
            )
        self._row_places = size.num_blocks
        self._parts: list[_Part] = []
        end = 0
        for cache in caches:
            cache.allocate(replace(size, num_blocks=size.max_seqs * size.num_blocks), where)
            for tensor in cache.tensors.values():
                nbytes = tensor[0].nbytes
                assert nbytes % page == 0, f"{nbytes} bytes of a block are not whole pages of {page}"
                self._parts.append(_Part(tensor.data_ptr(), nbytes, end))
                end += nbytes * size.num_blocks
        self.pages = PhysicalPages(end)
        parts = iter(self._parts)
        for cache in caches:
            cache.physical = {
                name: self.pages.tensor(next(parts).offset, (size.num_blocks, *t.shape[1:]), t.dtype)
                for name, t in cache.tensors.items()
            }

    def map(self, runs: Iterable[Run]) -> None:
        """Let blocks appear in their places. OutOfMappingsError where the system allows no more."""
        for row, place, block, count in runs:
            at = row * self._row_places + place
            for address, nbytes, offset in self._parts:
                self.pages.map(address + at * nbytes, offset + block * nbytes, count * nbytes)

    def unmap(self, row: int, places: int) -> None:
        """Let nothing appear in the first `places` places of `row`."""
        at = row * self._row_places
        for address, nbytes, _ in self._parts:
            self.pages.unmap(address + at * nbytes, places * nbytes)

    def give_back(self, runs: Iterable[Run]) -> None:
        """Return the memory of those blocks to the system."""
        for _, _, block, count in runs:
            for _, nbytes, offset in self._parts:
                self.pages.give_back(offset + block * nbytes, count * nbytes)
