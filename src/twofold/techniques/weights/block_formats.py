"""Fine-grained formats: blocks of a row that share a scale. Packs matrices, widens them, and rounds
activations.

The eight MX and NV formats are those of table 1 in arXiv:2510.25602 (MX: OCP Microscaling v1.0 with block 32
and an E8M0 scale; NV: block 16, an E4M3 scale per block and a float32 per tensor). The int4-g* formats are
symmetric 4-bit integers with a bfloat16 scale per group: the usual weight-only group quantisation, kept
symmetric like the source's integers. int3-g* and int8-g* are the same in 3 and 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from twofold.errors import nearest
from twofold.kernels.cpu.strips import Rounding
from twofold.ops.base import Precision
from twofold.ops.formats import Format, register
from twofold.techniques.weights.elements import E2M1, E2M3, E4M3, INT3, INT4, INT6, INT8, Element
from twofold.techniques.weights.packing import pack, unpack
from twofold.techniques.weights.scales import E8M0, BF16Scale, E4M3Scale, Scale, Scales

# Rows are packed in pieces of about this many elements, so that temporaries stay small beside a large matrix.
_CHUNK = 1 << 22
# Rounding can reach the next power of two, which float32 must still hold.
_LIMIT = 2.0**127


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """A format with `block` elements to a scale. format: its bytes and matrix precision, as ops count."""

    element: Element
    block: int
    scale: Scale
    format: Format

    @property
    def name(self) -> str:
        """The format's name."""
        return self.format.name

    @property
    def rounding(self) -> Rounding:
        """What `round` does to each row, as native kernels are told."""
        element = self.element
        return Rounding(
            self.block,
            element.maximum,
            -1 if element.integer else element.mantissa_bits,
            element.smallest_normal,
            self.scale.tensor_bits > 0,
        )

    def encode(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """[rows, cols] packed: `codes` uint8 [rows, bytes], `scales` [rows, blocks], for NV `tensor_scale`
        float32 [1].

        Rows are padded with zeros to whole blocks. ValueError for NaN, infinities and magnitudes from 2^127
        up.
        """
        if not bool((weight.abs() < _LIMIT).all()):
            raise ValueError(f"{self.name}: weights must be finite and below 2^127 in magnitude")
        blocks = self._blocks(weight)
        scales = self.scale.choose(blocks.abs().amax(-1), self.element.maximum)
        factors = self.scale.factors(scales)
        step = max(1, _CHUNK // max(1, blocks[0].numel()))
        pieces = []
        for start in range(0, len(blocks), step):
            values = self._normalised(blocks[start : start + step], factors[start : start + step])
            pieces.append(pack(self.element.encode(values).flatten(1), self.element.bits))
        out = {"codes": torch.cat(pieces), "scales": scales.blocks}
        return out if scales.tensor is None else {**out, "tensor_scale": scales.tensor}

    def store(self, values: torch.Tensor, scales: Scales) -> dict[str, torch.Tensor]:
        """What `encode` returns for rows that are already rounded: `values` [rows, cols] of the element type,
        in units of the scales of their blocks."""
        codes = pack(self.element.encode(self._blocks(values)).flatten(1), self.element.bits)
        out = {"codes": codes, "scales": scales.blocks}
        return out if scales.tensor is None else {**out, "tensor_scale": scales.tensor}

    def decode(self, tensors: Mapping[str, torch.Tensor], cols: int) -> torch.Tensor:
        """What `encode` packed, as float32 [rows, cols]; a view where rows were padded."""
        values = unpack(tensors["codes"], self.element)
        factors = self.scale.factors(Scales(tensors["scales"], tensors.get("tensor_scale")))
        rows, padded = values.shape
        values.view(rows, -1, self.block).mul_(factors.unsqueeze(-1))
        return values if padded == cols else values[:, :cols]

    def round(self, x: torch.Tensor, *, per_row: bool = False) -> torch.Tensor:
        """`x` [..., cols] rounded to values of the format, same shape and dtype; NaN and infinity give NaN.

        per_row: NV formats take their second-level scale over each row and not over the tensor.
        """
        flat = x.reshape(-1, x.shape[-1])
        blocks = self._blocks(flat)
        largest = blocks.abs().amax(-1)
        factors = self.scale.factors(self.scale.choose(largest, self.element.maximum, per_row=per_row))
        factors = torch.where(largest < float("inf"), factors, float("nan"))
        rounded = self._normalised(blocks, factors).mul_(factors.unsqueeze(-1)).flatten(1)
        return rounded[:, : x.shape[-1]].reshape(x.shape).to(x.dtype)

    def _blocks(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [rows, blocks, block] of x [rows, cols], padded with zeros."""
        return F.pad(x.float(), (0, -x.shape[-1] % self.block)).view(x.shape[0], -1, self.block)

    def _normalised(self, blocks: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Blocks in units of their scales, rounded to the element type. A scale of zero belongs to a block
        that is zero, or too small for its scale type: it stays zero."""
        return self.element.round(blocks / torch.where(factors == 0, float("inf"), factors).unsqueeze(-1))


def _define(name: str, element: Element, block: int, scale: Scale, matmul: Precision | None) -> BlockFormat:
    fmt = Format(name, element.bits, block, scale.bits, scale.tensor_bits, matmul)
    return BlockFormat(element, block, scale, register(fmt))


# A 6-bit integer has no unit of its own: an 8-bit integer unit multiplies it exactly.
BLOCK_FORMATS: dict[str, BlockFormat] = {
    f.name: f
    for f in (
        _define("mxint8", INT8, 32, E8M0(), "int8"),
        _define("mxfp8", E4M3, 32, E8M0(), "fp8"),
        _define("mxint6", INT6, 32, E8M0(), "int8"),
        _define("mxfp6", E2M3, 32, E8M0(), "fp6"),
        _define("mxint4", INT4, 32, E8M0(), "int4"),
        _define("mxfp4", E2M1, 32, E8M0(), "fp4"),
        _define("nvint4", INT4, 16, E4M3Scale(), "int4"),
        _define("nvfp4", E2M1, 16, E4M3Scale(), "fp4"),
        _define("int4-g32", INT4, 32, BF16Scale(), None),
        _define("int4-g64", INT4, 64, BF16Scale(), None),
        _define("int4-g128", INT4, 128, BF16Scale(), None),
        _define("int3-g32", INT3, 32, BF16Scale(), None),
        _define("int3-g64", INT3, 64, BF16Scale(), None),
        _define("int3-g128", INT3, 128, BF16Scale(), None),
        _define("int8-g32", INT8, 32, BF16Scale(), None),
        _define("int8-g64", INT8, 64, BF16Scale(), None),
        _define("int8-g128", INT8, 128, BF16Scale(), None),
    )
}


def block_format(name: str) -> BlockFormat:
    """The block format called `name`; ValueError with the nearest name where there is none."""
    try:
        return BLOCK_FORMATS[name]
    except KeyError:
        raise ValueError(f"unknown block format {name!r}; {nearest(str(name), BLOCK_FORMATS)}") from None
