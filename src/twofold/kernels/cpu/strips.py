"""Matrices in a block format (MX, NV, 4-bit groups) as native kernels multiply them: strips of 16 rows.

The layout is in `csrc/matmul_kernels.h`. A strip takes exactly the bytes of its rows, and gives back exactly
their values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from twofold.kernels.cpu import extension, native
from twofold.models.packed import aligned
from twofold.ops.formats import PACKED_ROWS

COLS = 32
"""Columns of a strip's block."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """How activations are rounded, row by row: to the nearest value of a number type in units of a scale that
    `block` elements share.

    largest: value of the type; mantissa: its bits, -1 for integers; smallest_normal: least power of two with
    all mantissa bits; two_levels: scales are E4M3 numbers times a float32 of the row, else powers of two.
    """

    block: int
    largest: float
    mantissa: int
    smallest_normal: float
    two_levels: bool

    @property
    def codes(self) -> int:
        """The largest code where products can take rounded activations as int8, a scale for each block of a
        strip; else 0."""
        fits = self.mantissa < 0 and not self.two_levels and self.block == COLS
        return int(self.largest) if fits else 0


@dataclass(frozen=True, slots=True)
class TokenRounding:
    """Activations are rounded to int8 codes -127 … 127 with one scale for a whole token: `scale`, or where
    that is 0 the token's largest magnitude over 127."""

    scale: float = 0.0


@dataclass(frozen=True, slots=True)
class Strips:
    """A [rows, cols] matrix in strips, and what is done to the activations before the product.

    packed: the strips; scale: of the whole matrix; signs: of the Hadamard blocks by which activations are
    rotated, as many as a block has columns; rounding: of the (rotated) activations. None: not done.
    """

    format: str
    rows: int
    cols: int
    packed: torch.Tensor
    scale: float = 1.0
    signs: torch.Tensor | None = None
    rounding: Rounding | TokenRounding | None = None

    def widen(self) -> torch.Tensor:
        """The stored values in float32, [rows, cols]."""
        out = torch.empty(self.rows, self.cols)
        extension().unpack_blocks(
            self.format, self.packed.data_ptr(), self.scale, self.rows, self.cols, out.data_ptr()
        )
        return out


def can_hold(fmt: str, rows: int, cols: int, rotation: int = 0) -> bool:
    """Whether there are native kernels here, and strips for a [rows, cols] matrix of format `fmt` whose
    activations are rotated in blocks of `rotation` (0: not at all)."""
    module = native()
    if module is None or fmt not in module.packed_formats():
        return False
    # Rows that do not fill strips would take more bytes in strips than outside.
    return rows % PACKED_ROWS == 0 and cols % COLS == 0 and (not rotation or cols % rotation == 0)


def pack(fmt: str, codes: torch.Tensor, scales: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """The strips of rows of `codes` (a bit stream each) and their `scales`: uint8, starting at a multiple of
    64 bytes."""
    module = extension()
    out = aligned(module.packed_bytes(fmt, rows, cols))
    codes, scales = codes.contiguous(), scales.contiguous()
    module.pack_blocks(fmt, codes.data_ptr(), scales.data_ptr(), rows, cols, out.data_ptr())
    return out
