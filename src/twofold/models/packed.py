"""Matrices that keep the codes of a quantised checkpoint, packed for native kernels.

A matrix is made of segments, one per run of rows stored in one format (fused projections may differ); how a
segment lies in memory is in `kernels/cpu/csrc/matmul_kernels.h`. Nothing is rounded: the packed codes give
back exactly the values of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from twofold.kernels.cpu import extension
from twofold.models.tensors import StoredTensor
from twofold.models.weights import Matrix
from twofold.ops.base import Precision
from twofold.ops.formats import PACKED, PACKED_ROWS, Format

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """`rows` rows stored in `format` (its name in a checkpoint)."""

    format: str
    rows: int

    @property
    def packed(self) -> Format:
        """The format they are packed in."""
        return PACKED[self.format]

    def nbytes(self, cols: int) -> int:
        """Bytes of the packed segment; rows are padded to whole strips."""
        return -(-self.rows // PACKED_ROWS) * PACKED_ROWS * self.packed.row_bytes(cols)


class PackedMatrix(Matrix):
    """A stored [out, in] matrix in one or several packed segments.

    exact: products keep float32 activations; otherwise these are quantised to int8 in blocks of 32, once per
    product. tensors: `packed`, the bytes of all segments. of: the matrix whose memory this one is part of.
    """

    of: PackedMatrix | None = None

    def __init__(
        self, segments: Sequence[Segment], in_features: int, packed: torch.Tensor | None, *, exact: bool
    ) -> None:
        self.segments = merge(segments)
        self.exact = exact
        self._nbytes = sum(s.nbytes(in_features) for s in self.segments)
        rows = sum(s.rows for s in self.segments)
        assert packed is None or packed.numel() == self._nbytes, (packed.shape, self._nbytes)
        fmt = self.segments[0].packed if len(self.segments) == 1 else _mixed(self.segments)
        super().__init__(fmt, rows, in_features, {} if packed is None else {"packed": packed})

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        return self._nbytes

    def part(self, start: int, stop: int) -> PackedMatrix:
        """Rows `start` to `stop`, in the same memory; `start` begins a strip of its segment."""
        mine: list[Segment] = []
        row = at = 0
        first = None
        for segment in self.segments:
            low, high = max(start - row, 0), min(stop - row, segment.rows)
            if low < high:
                assert low % PACKED_ROWS == 0, start
                if first is None:
                    first = at + Segment(segment.format, low).nbytes(self.in_features)
                mine.append(Segment(segment.format, high - low))
            row, at = row + segment.rows, at + segment.nbytes(self.in_features)
        assert first is not None, (start, stop)
        packed = self.tensors.get("packed")
        if packed is not None:
            packed = packed[first : first + sum(s.nbytes(self.in_features) for s in mine)]
        found = PackedMatrix(mine, self.in_features, packed, exact=self.exact)
        found.of = self
        return found

    def addresses(self) -> list[tuple[str, int, int]]:
        """(stored format, address, rows) of each segment, as native kernels take them."""
        out, at = [], self.tensors["packed"].data_ptr()
        for segment in self.segments:
            out.append((segment.format, at, segment.rows))
            at += segment.nbytes(self.in_features)
        return out

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The values of the checkpoint, [out, in]."""
        out = torch.empty(self.out_features, self.in_features)
        row = 0
        for name, address, rows in self.addresses():
            extension().unpack(name, address, rows, self.in_features, out[row:].data_ptr())
            row += rows
        return out.to(dtype)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` [T] in float32: [T, in]. Only of a matrix in one segment."""
        native = extension()
        (name, address, _), strip = self.addresses()[0], PACKED_ROWS
        out = torch.empty(len(ids), self.in_features)
        strip_bytes = Segment(name, strip).nbytes(self.in_features)
        block = torch.empty(strip, self.in_features)
        for i, row in enumerate(ids.tolist()):
            native.unpack(
                name, address + row // strip * strip_bytes, strip, self.in_features, block.data_ptr()
            )
            out[i] = block[row % strip]
        return out

    def compute(self, activations: Precision) -> Precision:
        """int8, or that of the activations where they are kept."""
        return activations if self.exact else "int8"

    def vector_flop(self, tokens: int) -> int:
        """Quantising the activations, about 4 operations each. Scaling the sums of blocks is part of the
        product: rates of int8 products are measured with it."""
        return 0 if self.exact else 4 * tokens * self.in_features


def merge(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one format as one segment, where the first ends with a whole strip."""
    out: list[Segment] = []
    for segment in segments:
        if out and out[-1].format == segment.format and out[-1].rows % PACKED_ROWS == 0:
            out[-1] = Segment(segment.format, out[-1].rows + segment.rows)
        else:
            out.append(segment)
    return out


def packable(fmt: str, in_features: int) -> bool:
    """Whether rows of `in_features` elements stored as `fmt` can be packed."""
    return fmt in PACKED and in_features % PACKED[fmt].block == 0


def pack(parts: Sequence[StoredTensor], in_features: int, *, exact: bool) -> PackedMatrix:
    """The rows of `parts`, one below the other, packed. The packed bytes start at a multiple of 64."""
    native = extension()
    segments = [Segment(t.format, t.shape[0]) for t in parts]
    sizes = [s.nbytes(in_features) for s in segments]
    out = aligned(sum(sizes))
    at = 0
    for part, segment, size in zip(parts, segments, sizes, strict=True):
        data = part.data.contiguous()
        native.pack(segment.format, data.data_ptr(), segment.rows, in_features, out[at:].data_ptr())
        at += size
    return PackedMatrix(segments, in_features, out, exact=exact)


def aligned(nbytes: int) -> torch.Tensor:
    """`nbytes` of uninitialised memory that starts at a multiple of 64."""
    raw = torch.empty(nbytes + _ALIGNMENT, dtype=torch.uint8)
    skip = -raw.data_ptr() % _ALIGNMENT
    return raw[skip : skip + nbytes]


def _mixed(segments: Sequence[Segment]) -> Format:
    """A name for a matrix of several formats; its bytes are counted by segment, not by this."""
    names = list(dict.fromkeys(s.packed.name for s in segments))
    return Format("+".join(names), max(s.packed.bits for s in segments))
