"""Physical pages of a GPU, and addresses at which they appear: `kernel_pages.PhysicalPages` through CUDA.

Checked against a stand-in of the driver (`tests/techniques/placement/cuda_stand_in.c`); not yet run on a GPU.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field

import torch

from twofold.techniques.placement.cuda_driver import Driver
from twofold.techniques.placement.tensor_at import tensor_at


@dataclass(slots=True)
class _Held:
    """What is to be given back: address ranges (first, bytes), addresses where a page appears, and the
    handles of pages by their number."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    mapped: set[int] = field(default_factory=set)
    handles: dict[int, int] = field(default_factory=dict)


class CudaPages:
    """Memory of up to `nbytes` bytes on the GPU `where`, made in pages of `page` bytes when these are mapped
    for the first time. CudaError where the driver refuses (out of memory, say).

    A page has one place of its own, where `tensor` shows it for as long as it has memory, and any number of
    others. Nothing may be in use that is unmapped or replaced: the caller has waited for the device.
    """

    def __init__(self, nbytes: int, page: int, driver: Driver, where: torch.device) -> None:
        self.page = page
        self.granularity = driver.granularity()
        self._driver, self._where = driver, where
        self._held = _Held()
        ended = weakref.finalize(self, _end, driver, page, self._held)
        ended.atexit = False  # with the process everything goes
        self._home = self._reserve(nbytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes of memory that pages have."""
        return len(self._held.handles) * self.page

    def area(self, nbytes: int) -> torch.Tensor:
        """Addresses with nothing behind them, as bytes [nbytes]. They must not be touched before they are
        mapped, and last as long as any view of them."""
        return tensor_at(self._reserve(nbytes), nbytes, self._where, keep=self)

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The bytes from `offset` on as a tensor, of which only pages that were mapped may be touched."""
        nbytes = math.prod(shape) * dtype.itemsize
        return tensor_at(self._home + offset, nbytes, self._where, keep=self).view(dtype).view(shape)

    def map(self, address: int, offset: int, nbytes: int) -> None:
        """Let the pages from `offset` on appear at `address`, in place of what was there."""
        self.unmap(address, nbytes)
        for at in range(0, nbytes, self.page):
            self._driver.map(address + at, self.page, self._handle((offset + at) // self.page))
            self._held.mapped.add(address + at)
        self._driver.open(address, nbytes)

    def unmap(self, address: int, nbytes: int) -> None:
        """Let nothing appear there any more; the addresses stay reserved."""
        for at in self._held.mapped.intersection(range(address, address + nbytes, self.page)):
            self._driver.unmap(at, self.page)
            self._held.mapped.remove(at)

    def hold(self, offset: int, nbytes: int) -> None:
        """Have memory behind those bytes, at their own place at least."""
        for number in range(offset // self.page, (offset + nbytes) // self.page):
            self._handle(number)

    def give_back(self, offset: int, nbytes: int) -> None:
        """Return the memory of those pages, which appear nowhere else any more, to the device."""
        for number in range(offset // self.page, (offset + nbytes) // self.page):
            handle = self._held.handles.pop(number, None)
            if handle is not None:
                self.unmap(self._home + number * self.page, self.page)
                self._driver.release(handle)

    def _reserve(self, nbytes: int) -> int:
        address = self._driver.reserve(nbytes)
        self._held.ranges.append((address, nbytes))
        return address

    def _handle(self, number: int) -> int:
        """The memory of page `number`, created and shown at its own place where there was none."""
        handle = self._held.handles.get(number)
        if handle is None:
            handle = self._held.handles[number] = self._driver.create(self.page)
            home = self._home + number * self.page
            self._driver.map(home, self.page, handle)
            self._held.mapped.add(home)
            self._driver.open(home, self.page)
        return handle


def _end(driver: Driver, page: int, held: _Held) -> None:
    """Give everything back."""
    for address in held.mapped:
        driver.unmap(address, page)
    for handle in held.handles.values():
        driver.release(handle)
    for address, nbytes in held.ranges:
        driver.free(address, nbytes)
