"""The caches of a model in virtual memory: tensors over ranges of addresses, one behind the other for each
row, on which blocks of physical memory are made to appear."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from twofold.models.cache import CacheLayer, CacheSize
from twofold.techniques.placement.cuda_driver import Driver
from twofold.techniques.placement.cuda_pages import CudaPages
from twofold.techniques.placement.kernel_pages import PhysicalPages
from twofold.techniques.placement.page_map import Run


class Pages(Protocol):
    """Physical memory in pages, and ranges of addresses at which they appear: `PhysicalPages` on a CPU,
    `CudaPages` on a GPU."""

    @property
    def granularity(self) -> int:
        """Bytes that pages must be a multiple of."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of physical memory that is taken now."""

    def area(self, nbytes: int) -> torch.Tensor:
        """Addresses with nothing behind them, as bytes [nbytes]."""

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The physical bytes from `offset` on as a tensor."""

    def map(self, address: int, offset: int, nbytes: int) -> None:
        """Let physical bytes from `offset` on appear at `address`, in place of what was there."""

    def unmap(self, address: int, nbytes: int) -> None:
        """Let nothing appear at `address` any more."""

    def hold(self, offset: int, nbytes: int) -> None:
        """Have memory behind those bytes, wherever they appear."""

    def give_back(self, offset: int, nbytes: int) -> None:
        """Return the memory behind those bytes to the system."""


def pages_on(where: torch.device, nbytes: int, page: int) -> Pages:
    """Physical memory of `nbytes` bytes on the real device `where`, in pages of `page` bytes. ValueError
    where it cannot be mapped."""
    if where.type == "cuda":
        number = torch.cuda.current_device() if where.index is None else where.index
        return CudaPages(nbytes, page, Driver(number), torch.device("cuda", number))
    return PhysicalPages(nbytes)


class _Part(NamedTuple):
    """One tensor: its address, the bytes of a block in it, and where its blocks begin in physical memory."""

    address: int
    nbytes: int
    offset: int


class VirtualCaches:
    """Storage of `caches` for `size.max_seqs` rows of `size.num_blocks` places each.

    `CacheLayer.tensors` are the virtual ranges, by place; `CacheLayer.physical` are the blocks themselves, by
    their numbers. ValueError where `page` bytes cannot be mapped by themselves.
    """

    def __init__(self, caches: Sequence[CacheLayer], size: CacheSize, page: int, where: torch.device) -> None:
        self._row_places = size.num_blocks
        total = sum(cache.block_bytes() for cache in caches) * size.num_blocks
        self.pages = pages_on(where, total, page)
        least = self.pages.granularity
        if page % least:
            raise ValueError(
                f"page size {page} is not a multiple of the {least} bytes that this device maps by; "
                f"use {max(1, round(page / least)) * least}"
            )
        self._parts: list[_Part] = []
        end = 0
        for cache in caches:
            # Its own tensors say the shapes; where nothing may lie yet, it must not allocate them.
            cache.allocate(replace(size, num_blocks=size.max_seqs * size.num_blocks), torch.device("meta"))
            shapes, cache.tensors, cache.physical = cache.tensors, {}, {}
            for name, like in shapes.items():
                nbytes = like[0].nbytes
                assert nbytes % page == 0, f"{nbytes} bytes of a block are not whole pages of {page}"
                area = self.pages.area(like.nbytes)
                cache.tensors[name] = area.view(like.dtype).view(like.shape)
                blocks = (size.num_blocks, *like.shape[1:])
                cache.physical[name] = self.pages.tensor(end, blocks, like.dtype)
                self._parts.append(_Part(area.data_ptr(), nbytes, end))
                end += nbytes * size.num_blocks
        assert end == total, f"caches count {total} bytes and take {end}"

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

    def hold(self, runs: Iterable[Run]) -> None:
        """Have memory behind those blocks."""
        for _, _, block, count in runs:
            for _, nbytes, offset in self._parts:
                self.pages.hold(offset + block * nbytes, count * nbytes)

    def give_back(self, runs: Iterable[Run]) -> None:
        """Return the memory of those blocks to the system."""
        for _, _, block, count in runs:
            for _, nbytes, offset in self._parts:
                self.pages.give_back(offset + block * nbytes, count * nbytes)
