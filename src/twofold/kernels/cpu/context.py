"""What a native kernel is given beside the op and its arguments: the stream that runs it, and memory for what
it computes."""

from __future__ import annotations

import math
from typing import Any

import torch

_POOLED = 1 << 18
"""Bytes from which a buffer is taken from a pool: larger ones would come fresh from the operating system each
time, page by page."""


class CpuContext:
    """The native side of one device.

    stream: the `native.Stream` that ops are submitted to; exact: products keep float32 activations; exchange:
    where collectives meet the other ranks, with the memory that it lies in (None: there are none).
    """

    def __init__(self, native: Any, threads: int, *, exact: bool = False) -> None:
        self.native = native
        self.stream = native.Stream(threads)
        self.exact = exact
        self.exchange: tuple[Any, torch.Tensor] | None = None
        self._pool = native.Arena()
        self._recording: Any = None

    def empty(self, *shape: int) -> torch.Tensor:
        """A float32 tensor of `shape`, not initialised. While a program is recorded it lies in the program's
        own memory, which a later op of the program may use once no tensor refers to it."""
        size = math.prod(shape)
        if self._recording is not None:
            return self._take(self._recording, size).view(shape)
        if size * 4 < _POOLED:
            return torch.empty(shape)
        return self._take(self._pool, size).view(shape)

    def record_into(self, arena: Any) -> None:
        """Take buffers from `arena` from here on; None ends that."""
        self._recording = arena

    @staticmethod
    def _take(arena: Any, size: int) -> torch.Tensor:
        found: torch.Tensor = arena.take(4 * size)[:size]
        return found
