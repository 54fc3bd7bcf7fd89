"""The memory of caches: how it is reserved, and which blocks are copied as one piece."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence

import torch


def reserve(shape: tuple[int, ...], dtype: torch.dtype, where: torch.device) -> torch.Tensor:
    """A zeroed tensor. On a CPU its pages take memory only once they are written, so that a cache which is
    reserved generously costs what is used of it."""
    nbytes = math.prod(shape) * dtype.itemsize
    if where.type != "cpu" or not nbytes:
        return torch.zeros(shape, dtype=dtype, device=where)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def runs(pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Pieces (first, first, length) of block pairs that are contiguous on both sides, in order."""
    begin = 0
    for index in range(1, len(pairs) + 1):
        if index < len(pairs):
            (a, b), following = pairs[index - 1], pairs[index]
            if following == (a + 1, b + 1):
                continue
        yield (*pairs[begin], index - begin)
        begin = index
