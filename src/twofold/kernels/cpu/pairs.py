"""Products with matrices that are stored as outlier-victim pairs, in strips of 16 rows. Shape letters: T
tokens, I in, O out.

The layout is in `csrc/matmul_kernels.h`. Strips take exactly the bytes of their rows, and give back exactly
their values. Pairs of int4 on both sides are multiplied as integers, all others in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from twofold.kernels.cpu import extension, native
from twofold.models.packed import aligned
from twofold.ops.formats import PACKED_ROWS

if TYPE_CHECKING:
    from twofold.kernels.cpu.context import CpuContext

COLS = 32
"""Columns of a strip's block."""
_INTEGERS = "ovp-int4"


@dataclass(frozen=True, slots=True)
class PairStrips:
    """A [rows, cols] matrix of outlier-victim pairs of type `name` in strips.

    scales: float32 [rows]; activations: the type of pairs that activations are rounded to and its scale, or
    None.
    """

    name: str
    rows: int
    cols: int
    packed: torch.Tensor
    scales: torch.Tensor
    activations: tuple[str, float] | None = None

    def widen(self) -> torch.Tensor:
        """The stored values in float32, [rows, cols]."""
        out = torch.empty(self.rows, self.cols)
        extension().unpack_pairs(
            self.name, self.packed.data_ptr(), self.scales.data_ptr(), self.rows, self.cols, out.data_ptr()
        )
        return out

    def product(self, ctx: CpuContext, x: torch.Tensor, bias: int) -> torch.Tensor:
        """x [T, I], rounded as asked, to [T, O], plus the bias at that address (0: none)."""
        native, scale = ctx.native, 0.0
        if self.activations is not None:
            name, scale = self.activations
            if name != _INTEGERS or self.name != _INTEGERS:
                rounded = ctx.empty(*x.shape)
                native.round_pairs(
                    ctx.stream, name, scale, x.data_ptr(), len(x), self.cols, rounded.data_ptr()
                )
                x, scale = rounded, 0.0
        y = ctx.empty(len(x), self.rows)
        native.pair_linear(
            ctx.stream,
            self.name,
            self.packed.data_ptr(),
            self.scales.data_ptr(),
            self.rows,
            self.cols,
            x.data_ptr(),
            len(x),
            bias,
            y.data_ptr(),
            scale,
        )
        return y


def can_hold(rows: int, cols: int) -> bool:
    """Whether there are native kernels here, and strips for a [rows, cols] matrix of pairs."""
    return native() is not None and rows % PACKED_ROWS == 0 and cols % COLS == 0


def pack(name: str, codes: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """The strips of rows of `codes`: uint8, starting at a multiple of 64 bytes."""
    out, codes = aligned(codes.numel()), codes.contiguous()
    extension().pack_pairs(name, codes.data_ptr(), rows, cols, out.data_ptr())
    return out
