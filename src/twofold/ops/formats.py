"""Number formats of stored tensors: how many bytes a matrix takes, by counting.

A format stores rows of `block`-sized groups; a row is padded to whole blocks. `bits` is the width of one
element, `block_overhead` the bits of scale, offset and the like that each block carries. Sources: the GGUF
layouts are those of ggml's block structs; the MX formats are OCP Microscaling v1.0; NVFP4 is NVIDIA's
16-element FP4 with an E4M3 scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.errors import nearest
from twofold.ops.base import Precision


@dataclass(frozen=True, slots=True)
class Format:
    """A stored number format.

    bits: bits of one element; block: elements that share scales (1 = none); block_overhead: bits per block
    beside the elements; tensor_overhead: bits per tensor; matmul: the precision at which a matrix unit
    multiplies such operands natively, or None where they are widened to the activations' precision first
    (weight-only formats).
    """

    name: str
    bits: int
    block: int = 1
    block_overhead: int = 0
    tensor_overhead: int = 0
    matmul: Precision | None = None

    def row_bytes(self, cols: int) -> int:
        """Bytes of one row of `cols` elements, padded to whole blocks."""
        blocks = -(-cols // self.block)
        return -(-blocks * (self.block * self.bits + self.block_overhead) // 8)

    def nbytes(self, rows: int, cols: int) -> int:
        """Bytes of a [rows, cols] matrix."""
        return rows * self.row_bytes(cols) + self.tensor_overhead // 8

    @property
    def bits_per_element(self) -> float:
        """Average bits per element, scales included."""
        return self.bits + self.block_overhead / self.block


_FORMATS: dict[str, Format] = {}


def register(fmt: Format) -> Format:
    """Add a format to the vocabulary; a name has one meaning."""
    if _FORMATS.setdefault(fmt.name, fmt) != fmt:
        raise ValueError(f"format {fmt.name!r} is already defined differently: {_FORMATS[fmt.name]}")
    return fmt


def get_format(name: str) -> Format:
    """The format called `name`; ValueError with the nearest name where there is none."""
    try:
        return _FORMATS[name]
    except KeyError:
        raise ValueError(f"unknown format {name!r}; {nearest(name, _FORMATS)}") from None


def format_names() -> list[str]:
    """All known format names, sorted."""
    return sorted(_FORMATS)


F32 = register(Format("f32", 32, matmul="fp32"))
F16 = register(Format("f16", 16, matmul="fp16"))
BF16 = register(Format("bf16", 16, matmul="bf16"))
FP8 = register(Format("fp8", 8, tensor_overhead=32, matmul="fp8"))
INT8 = register(Format("int8", 8, matmul="int8"))

# ggml block layouts: bits per element and the scale fields of a block.
register(Format("q8_0", 8, 32, 16))
register(Format("q4_0", 4, 32, 16))
register(Format("q4_1", 4, 32, 32))
register(Format("q5_0", 5, 32, 16))
register(Format("q5_1", 5, 32, 32))
register(Format("q4_k", 4, 256, 2 * 16 + 12 * 8))
register(Format("q5_k", 5, 256, 2 * 16 + 12 * 8))
register(Format("q6_k", 6, 256, 16 + 16 * 8))

# Packed for native kernels in strips of rows; scales and minima of q4_k and q5_k take 8 bits instead of 6.
PACKED_ROWS = 16
"""Rows of a packed matrix are padded to multiples of this."""
PACKED: dict[str, Format] = {
    name: _FORMATS[name] for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q6_k")
}
PACKED["q4_k"] = register(Format("q4_k_packed", 4, 256, 2 * 16 + 16 * 8))
PACKED["q5_k"] = register(Format("q5_k_packed", 5, 256, 2 * 16 + 16 * 8))
"""By stored format, the format that native kernels multiply with: the same values."""
