"""Products with matrices that are stored as bit planes, in strips of 16 rows. Shape letters: T tokens, I in,
O out.

The layout is in `csrc/planes_kernels.h`. A strip takes exactly the bytes of its rows, and gives back exactly
their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import NotImplementedType
from typing import TYPE_CHECKING

import torch

from twofold.kernels.cpu import extension, native
from twofold.kernels.registry import cpu
from twofold.models.packed import aligned
from twofold.ops.formats import PACKED_ROWS
from twofold.ops.linear import BitPlaneLinear, Linear, LookUpLinear

if TYPE_CHECKING:
    from twofold.kernels.cpu.context import CpuContext
    from twofold.models.weights import Matrix

COLS = 32
"""Columns of a strip's block; groups are whole blocks."""
MOST_GROUP = 256
"""Columns of the largest group: its sums of products of 8-bit integers are exact in float32."""
TABLE = 4
"""Activations whose signed sums a table of native kernels holds: 16 floats, one vector register."""


@dataclass(frozen=True, slots=True)
class Planes:
    """A [rows, cols] matrix in strips of bit planes.

    coded: binary codes with a factor per plane and an offset, else bipolar integers with one scale; planes:
    how many; group: columns that share these; activation_bits: of the bipolar integers that activations are
    rounded to (0: they are not).
    """

    coded: bool
    planes: int
    group: int
    rows: int
    cols: int
    packed: torch.Tensor
    activation_bits: int = 0

    def widen(self) -> torch.Tensor:
        """The stored values in float32, [rows, cols]."""
        out = torch.empty(self.rows, self.cols)
        where = self.packed.data_ptr()
        extension().unpack_planes(
            self.coded, self.planes, self.group, where, self.rows, self.cols, out.data_ptr()
        )
        return out

    def product(self, ctx: CpuContext, x: torch.Tensor, bias: int, *, tables: bool = False) -> torch.Tensor:
        """x [T, I] to [T, O], plus the bias at that address (0: none). tables: look sums up instead of
        widening binary codes."""
        y = ctx.empty(len(x), self.rows)
        ctx.native.plane_linear(
            ctx.stream,
            self.coded,
            self.planes,
            self.group,
            self.packed.data_ptr(),
            self.rows,
            self.cols,
            x.data_ptr(),
            len(x),
            bias,
            y.data_ptr(),
            int(tables) if self.coded else self.activation_bits,
        )
        return y


def can_hold(group: int, rows: int, cols: int) -> bool:
    """Whether there are native kernels here, and strips for a [rows, cols] matrix whose groups have `group`
    columns."""
    fits = group % COLS == 0 and group <= MOST_GROUP
    return native() is not None and fits and rows % PACKED_ROWS == 0 and cols % COLS == 0


def pack(coded: bool, planes: torch.Tensor, factors: torch.Tensor, group: int, cols: int) -> torch.Tensor:
    """The strips of `planes` uint8 [rows, planes, cols / 8] and `factors` float16 [rows, groups, factors]."""
    module = extension()
    rows, count, _ = planes.shape
    out = aligned(module.planes_bytes(coded, count, group, rows, cols))
    planes, factors = planes.contiguous(), factors.contiguous()
    module.pack_planes(coded, count, group, planes.data_ptr(), factors.data_ptr(), rows, cols, out.data_ptr())
    return out


@cpu(LookUpLinear)
@cpu(BitPlaneLinear)
def plane_product(
    ctx: CpuContext, op: Linear, x: torch.Tensor, weight: Matrix, bias: torch.Tensor | None = None
) -> torch.Tensor | NotImplementedType:
    """x [T, I] to [T, O]: sums are looked up in tables, or bits counted."""
    if x.dtype != torch.float32 or not x.is_contiguous() or not isinstance(weight.strips, Planes):
        return NotImplemented
    if isinstance(op, LookUpLinear) and op.mu != TABLE:
        return NotImplemented
    shift = 0 if bias is None else bias.data_ptr()
    return weight.strips.product(ctx, x, shift, tables=isinstance(op, LookUpLinear))
