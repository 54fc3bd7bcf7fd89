"""The seam of techniques that keep every sequence's cache contiguous in virtual memory: blocks are sets of
physical pages, and a manager maps them, sequence by sequence, where the kernels read.

Scheduler and block manager stay as they are; they hand out physical blocks. Before a pass the manager makes
the blocks of each sequence appear, in order, in the range of addresses that belongs to the sequence's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer, CacheSize
from twofold.models.step import StepInput


class Paging(Protocol):
    """What maps the blocks of the caches. Technique seam.

    lookahead: tokens ahead of need for which decoding requests get their blocks, so that these can be mapped
    while something else is computed. counters: what was mapped and shared, in pages and bytes, alike on real
    and modelled devices.
    """

    lookahead: int
    counters: dict[str, int]

    def fit(self, parts: Sequence[int], page_bytes: int) -> int:
        """How many times as large blocks must be for each of their parts to be whole pages, where the parts
        now take `parts` bytes in each of a layer's tensors, and the device maps pages of `page_bytes` bytes
        at the least."""

    def prepare(self, caches: Sequence[CacheLayer], size: CacheSize) -> None:
        """Get ready for `caches` of `size`, which are not allocated yet."""

    def allocate(self, where: torch.device) -> None:
        """Allocate the caches that were prepared for: physical blocks, and virtual ranges without any."""

    def map(self, step: StepInput, device: Device) -> None:
        """Map what `step` reads and writes, and let it address that by the rows of its sequences. Nothing is
        done for a step that does not name them."""

    def follow(self, row: int, table: Sequence[int]) -> None:
        """The sequence in `row` has grown to the blocks `table` in steps that `map` was not told of."""

    def hold(self, blocks: Sequence[int]) -> None:
        """Copies are about to be written into `blocks`, which may appear nowhere yet."""

    def held(self, row: int) -> Sequence[int]:
        """The blocks of the sequence in `row`."""

    def release(self, row: int, free: Sequence[int]) -> None:
        """The sequence in `row` is gone, and the blocks `free` of it belong to nobody."""
