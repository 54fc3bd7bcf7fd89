"""The row-stationary dataflow: a processing element slides a row of a filter along a row of the input.

A 2D convolution of one input channel to one output channel takes a set of elements: a row of them for each
row of the filter, a column for each row of the output. A set wider or higher than the array is folded, a
smaller one is replicated over channels of the input (down) and of the output (down and across); channels of
different groups see nothing of each other and share no pass.

Source: Chen, Emer, Sze, "Eyeriss: a spatial architecture for energy-efficient dataflow for convolutional
neural networks" (ISCA 2016); folding, replication and accesses as in nn-dataflow's mapping of it (Gao et al.,
github.com/stanford-mast/nn_dataflow), which DRACO extended by groups (github.com/shreyas1998/nn_dataflow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from twofold.ops.convolution import Conv2d


class Pass(NamedTuple):
    """What a convolution takes: cycles; share of the elements' slots that compute; numbers between buffer and
    array, over its network, and from and to registers of elements."""

    cycles: int
    utilisation: float
    buffer: int
    network: int
    registers: int


@dataclass(frozen=True, slots=True)
class RowStationary:
    """`rows` x `columns` processing elements."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise ValueError(f"array: rows and columns must be positive, not {self.rows}, {self.columns}")

    def convolution(self, op: Conv2d) -> Pass:
        """Of a batch of images."""
        fold_down, down = _fit(op.kernel, self.rows)
        fold_across, across = _fit(op.out_height, self.columns)
        # Parts of a set that is too wide lie below each other, where there is room.
        stacked = min(down, fold_across)
        fold_across, down = _ceil(fold_across, stacked), down // stacked
        ins, outs, passes = self._replicate(op, down, across)
        passes *= op.batch * fold_across
        steps = fold_down * op.kernel * op.out_width
        cycles = passes * steps
        part = _ceil(op.out_height, fold_across)
        high, wide = (part - 1) * op.stride + op.kernel, (op.out_width - 1) * op.stride + op.kernel
        moved = ins * outs * op.kernel**2 + fold_down * (ins * high * wide + outs * part * op.out_width)
        elements = ins * outs * _ceil(op.kernel, fold_down) * part
        through = elements * fold_down * (op.kernel + wide + op.out_width)
        return Pass(
            cycles,
            op.macs / (cycles * self.rows * self.columns),
            passes * moved,
            passes * through,
            3 * op.macs,
        )

    def _replicate(self, op: Conv2d, down: int, across: int) -> tuple[int, int, int]:
        """Channels in and out of a pass, and passes over all channels: the least that a split of `down` over
        both takes."""
        channels, filters = op.in_channels // op.groups, op.out_channels // op.groups
        found = []
        for split in (split for split in range(1, down + 1) if down % split == 0):
            ins, outs = min(split, channels), min(down // split * across, filters)
            found.append((_ceil(channels, ins) * _ceil(op.out_channels, outs), ins, outs))
        passes, ins, outs = min(found)
        return ins, outs, passes


def _ceil(size: int, part: int) -> int:
    return -(-size // part)


def _fit(size: int, room: int) -> tuple[int, int]:
    """How often a size is folded into the room, and how often it fits there."""
    return (_ceil(size, room), 1) if size > room else (1, room // size)
