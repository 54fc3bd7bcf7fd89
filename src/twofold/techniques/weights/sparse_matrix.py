"""Matrices that keep some of their weights, packed, and are multiplied by skipping the others.

A matrix is cut into tiles of neighbouring kept outputs. A tile keeps some inputs, the same for all of its
rows; each row may keep only some of the weights for these, equally many in every row, and a bit mask says
which. Unstructured and n:m patterns are thus one tile with a mask, tile-wise ones many tiles without. Weights
are stored in binary16. Native kernels: kernels/cpu/csrc/sparse_kernels.h. Shape letters: T tokens, O out, I
in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from twofold.models.packed import aligned
from twofold.ops.base import Precision
from twofold.ops.formats import F16
from twofold.ops.linear import SparseLinear
from twofold.techniques.weights.bit_planes import pack_bits, unpack_bits
from twofold.techniques.weights.counted import CountedMatrix, in_place_of

_HALF_MAX = 65504.0
_PAST_THE_END = 64  # bytes that native kernels may read behind the last weight


@dataclass(frozen=True, slots=True)
class Pattern:
    """How much a matrix keeps, from which its bytes follow with or without data.

    rows: kept outputs, in tiles of tile_rows; inputs: kept inputs, added up over all tiles; kept: weights;
    masked: whether a mask says which; chosen_inputs, chosen_outputs: whether only some of them are kept.
    """

    rows: int
    tile_rows: int
    inputs: int
    kept: int
    masked: bool
    chosen_inputs: bool
    chosen_outputs: bool

    @property
    def nbytes(self) -> int:
        """Weights, masks, and the numbers of inputs and outputs that are kept (four bytes each)."""
        mask = self.tile_rows * -(-self.inputs // 8) if self.masked else 0
        numbers = self.inputs * self.chosen_inputs + self.rows * self.chosen_outputs
        return 2 * self.kept + mask + 4 * numbers


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile, in views: values [rows, kept], mask uint8 [rows, cols / 8], the `cols` inputs that it reads
    and the outputs that it makes (None: all from the first, or from `first`, on)."""

    values: torch.Tensor
    mask: torch.Tensor | None
    inputs: torch.Tensor | None
    outputs: torch.Tensor | None
    first: int
    cols: int

    @property
    def rows(self) -> torch.Tensor:
        """The outputs that it makes, int64."""
        if self.outputs is not None:
            return self.outputs.long()
        return torch.arange(self.first, self.first + len(self.values), device=self.values.device)

    def columns(self) -> torch.Tensor:
        """Which of its inputs each of its weights multiplies: [rows, kept], or [1, kept] where rows are
        alike."""
        if self.mask is None:
            return torch.arange(self.cols, device=self.values.device)[None]
        bits = unpack_bits(self.mask, self.cols)
        return bits.nonzero()[:, 1].view(len(bits), -1)


class SparseMatrix(CountedMatrix):
    """A sparse matrix.

    tensors: values float16, mask uint8, inputs and outputs int32, each flat and tile by tile. counts: kept
    inputs of each tile (multiples of 8, but for a single tile of all inputs). counters: products with it, and
    weights that these did not have to multiply with (per product, not per token).
    """

    def __init__(
        self,
        pattern: Pattern,
        out_features: int,
        in_features: int,
        tensors: dict[str, torch.Tensor],
        counts: Sequence[int],
        counters: dict[str, int],
    ) -> None:
        super().__init__(F16, out_features, in_features, tensors)
        self.pattern, self.counts, self.counters = pattern, tuple(counts), counters
        self._native: list[tuple[int, ...]] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self.pattern.nbytes

    def op(self, tokens: int, activations: Precision) -> SparseLinear:
        """The op that multiplies `tokens` rows by what is kept; counted."""
        kept = self.pattern.kept
        self.counters["weights_skipped"] += self.out_features * self.in_features - kept
        return in_place_of(super().op(tokens, activations), SparseLinear, kept=kept)

    def tiles(self) -> Iterator[Tile]:
        """The tiles in order."""
        held, p = self.tensors, self.pattern
        value = mask = number = 0
        for i, cols in enumerate(self.counts):
            weights = p.kept * cols // p.inputs
            bits = p.tile_rows * -(-cols // 8)
            first = i * p.tile_rows
            yield Tile(
                held["values"][value : value + weights].view(p.tile_rows, -1),
                held["mask"][mask : mask + bits].view(p.tile_rows, -1) if p.masked else None,
                held["inputs"][number : number + cols] if p.chosen_inputs else None,
                held["outputs"][first : first + p.tile_rows] if p.chosen_outputs else None,
                first,
                cols,
            )
            value, mask, number = value + weights, mask + bits, number + cols

    def native_tiles(self) -> list[tuple[int, ...]]:
        """The tiles that keep anything, as native kernels take them."""
        if self._native is None:

            def at(tensor: torch.Tensor | None) -> int:
                return 0 if tensor is None else tensor.data_ptr()

            self._native = [
                (
                    *(at(part) for part in (t.values, t.mask, t.inputs, t.outputs)),
                    self.pattern.tile_rows,
                    t.cols,
                    t.values.shape[1],
                    t.first,
                )
                for t in self.tiles()
                if t.cols
            ]
        return self._native

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix with zeros where weights are gone."""
        values = self.tensors["values"]
        out = torch.zeros(self.out_features, self.in_features, dtype=dtype, device=values.device)
        for tile in self.tiles():
            columns = tile.columns()
            if tile.inputs is not None:
                columns = tile.inputs.long()[columns]
            out[tile.rows[:, None], columns] = tile.values.to(dtype)
        return out


def pack_sparse(
    weight: torch.Tensor,
    inputs: Sequence[torch.Tensor],
    tile_rows: int,
    counters: dict[str, int],
    *,
    outputs: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
) -> SparseMatrix:
    """`weight` [O, I] with what is kept of it.

    inputs: of each tile, the inputs that it keeps, ascending. outputs: those that are kept (None: all),
    `tile_rows` of them to a tile. keep: bool [O, I], of the kept inputs those that a row keeps, equally many
    in every row of a tile (None: all).
    """
    rows = torch.arange(len(weight), device=weight.device) if outputs is None else outputs.long()
    assert len(rows) == tile_rows * len(inputs), (len(rows), tile_rows, len(inputs))
    values, masks = [], []
    every = len(inputs) == 1 and len(inputs[0]) == weight.shape[1]
    for mine, columns in zip(rows.view(-1, tile_rows), inputs, strict=True):
        part = weight[mine] if every else weight[mine][:, columns.long()]
        if keep is None:
            values.append(part.flatten())
            continue
        chosen = keep[mine] if every else keep[mine][:, columns.long()]
        values.append(part[chosen])
        masks.append(pack_bits(chosen).flatten())
    flat = torch.cat(values).clamp(-_HALF_MAX, _HALF_MAX).half()
    tensors = {"values": _with_room(flat)}
    if keep is not None:
        tensors["mask"] = torch.cat(masks)
    if not every:
        tensors["inputs"] = torch.cat([columns.int() for columns in inputs])
    if outputs is not None:
        tensors["outputs"] = outputs.int()
    counts = [len(columns) for columns in inputs]
    pattern = Pattern(
        len(rows), tile_rows, sum(counts), len(flat), keep is not None, not every, outputs is not None
    )
    return SparseMatrix(pattern, weight.shape[0], weight.shape[1], tensors, counts, counters)


def _with_room(values: torch.Tensor) -> torch.Tensor:
    """The values in memory that goes on behind them; on other devices than a CPU as they are."""
    if values.device.type != "cpu":
        return values
    nbytes = 2 * len(values)
    return aligned(nbytes + _PAST_THE_END)[:nbytes].view(torch.float16).copy_(values)
