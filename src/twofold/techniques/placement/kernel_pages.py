"""Physical pages in a file in memory, and addresses at which they appear: memfd_create, mmap, fallocate.

The file is as large as all blocks of all tensors together, and takes memory page by page as these are mapped
for the first time. A range of addresses is reserved with nothing behind it; mapping a block there costs a
call, never a copy. The same pages may appear at any number of addresses.
"""

from __future__ import annotations

import ctypes
import errno
import math
import mmap
import os
import weakref
from functools import cache
from typing import ClassVar

import torch

from twofold.models.cache_memory import reserve

_PROT = mmap.PROT_READ | mmap.PROT_WRITE
_FIXED, _POPULATE, _NORESERVE = 0x10, 0x8000, 0x4000
_KEEP_SIZE, _PUNCH_HOLE = 0x1, 0x2
_FAILED = ctypes.c_void_p(-1).value
_STAT_BLOCK = 512


class OutOfMappingsError(RuntimeError):
    """The operating system allows this process no more separate mappings."""


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return libc


class PhysicalPages:
    """A file in memory of `nbytes` bytes that takes pages when they are mapped or written.

    ValueError where the system has no such files. granularity: the least that can be mapped, in bytes.
    """

    granularity: ClassVar[int] = mmap.PAGESIZE

    def __init__(self, nbytes: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise ValueError("mapping pages of memory needs Linux (memfd_create); leave the technique out")
        self.file = os.memfd_create("twofold-cache", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self.file)
        os.ftruncate(self.file, nbytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes of physical memory that the file takes, as the kernel counts them."""
        return os.fstat(self.file).st_blocks * _STAT_BLOCK

    def area(self, nbytes: int) -> torch.Tensor:
        """Addresses with nothing behind them, as bytes [nbytes]."""
        return reserve((nbytes,), torch.uint8, torch.device("cpu"))

    def tensor(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The bytes from `offset` on as a tensor. It takes no memory before it is written."""
        pages = mmap.mmap(self.file, math.prod(shape) * dtype.itemsize, offset=offset)
        return torch.frombuffer(pages, dtype=dtype).view(shape)

    def map(self, address: int, offset: int, nbytes: int) -> None:
        """Let `nbytes` bytes from `offset` on appear at `address`, which lies in a reserved range, in place
        of what was there. OutOfMappingsError where the process has too many mappings."""
        flags = mmap.MAP_SHARED | _FIXED | _POPULATE
        _check(_libc().mmap(address, nbytes, _PROT, flags, self.file, offset))

    def unmap(self, address: int, nbytes: int) -> None:
        """Let nothing appear at `address` any more; it stays reserved."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED | _NORESERVE
        _check(_libc().mmap(address, nbytes, _PROT, flags, -1, 0))

    def hold(self, offset: int, nbytes: int) -> None:
        """Have memory behind those bytes."""
        if _libc().fallocate(self.file, 0, offset, nbytes):
            raise OSError(ctypes.get_errno(), "fallocate")

    def give_back(self, offset: int, nbytes: int) -> None:
        """Return the memory behind those bytes to the system; they read as zero from here on."""
        if _libc().fallocate(self.file, _KEEP_SIZE | _PUNCH_HOLE, offset, nbytes):
            raise OSError(ctypes.get_errno(), "fallocate")


def _check(result: int | None) -> None:
    if result != _FAILED:
        return
    code = ctypes.get_errno()
    if code == errno.ENOMEM:
        raise OutOfMappingsError("the system allows no more mappings (vm.max_map_count)")
    raise OSError(code, f"mmap: {os.strerror(code)}")
