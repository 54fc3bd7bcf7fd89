"""How one head's key or value is stored in the native cache: bytes by counting, packing and widening in
torch.

The native kernels (csrc/attention_store.h, csrc/attention_unpack.h) do the same arithmetic in the same order,
so that both leave the same bytes and read the same numbers. Shape letter: D elements of an entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from twofold.errors import nearest

GROUP = 32
"""Elements that share a scale and a minimum in 4 bits; the last group of an entry may be shorter."""

HALF_MAX = 65504.0
"""The largest finite float16. What is larger is stored as this, since an infinity would poison later sums."""

Parts = dict[str, torch.Tensor]
"""The stored parts of entries by suffix ("" for the elements themselves), each [..., width]."""


class EntryFormat:
    """A storage format. `parts`: suffix to dtype; widen_flop, pack_flop: elementwise operations per
    element."""

    name: ClassVar[str]
    parts: ClassVar[dict[str, torch.dtype]]
    widen_flop: ClassVar[int] = 0
    pack_flop: ClassVar[int] = 0

    def width(self, part: str, dim: int) -> int:
        """Elements of `part` that an entry of `dim` elements has."""
        del part
        return dim

    def entry_bytes(self, dim: int) -> int:
        """Bytes of an entry of `dim` elements, scales included."""
        return sum(self.width(part, dim) * dtype.itemsize for part, dtype in self.parts.items())

    def pack(self, x: torch.Tensor) -> Parts:
        """x float32 [..., D] to its parts."""
        raise NotImplementedError

    def unpack(self, parts: Parts) -> torch.Tensor:
        """The inverse of `pack`, as far as it has one: float32 [..., D]."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Float32(EntryFormat):
    """Elements as they are: for exact comparisons."""

    name: ClassVar[str] = "f32"
    parts: ClassVar[dict[str, torch.dtype]] = {"": torch.float32}

    def pack(self, x: torch.Tensor) -> Parts:
        """x itself."""
        return {"": x}

    def unpack(self, parts: Parts) -> torch.Tensor:
        """The elements."""
        return parts[""]


@dataclass(frozen=True, slots=True)
class Float16(EntryFormat):
    """Rounded to float16, limited to its finite range."""

    name: ClassVar[str] = "f16"
    parts: ClassVar[dict[str, torch.dtype]] = {"": torch.float16}
    widen_flop: ClassVar[int] = 1
    pack_flop: ClassVar[int] = 3

    def pack(self, x: torch.Tensor) -> Parts:
        """Limit and round."""
        return {"": x.clamp(-HALF_MAX, HALF_MAX).half()}

    def unpack(self, parts: Parts) -> torch.Tensor:
        """Exact."""
        return parts[""].float()


@dataclass(frozen=True, slots=True)
class Int8(EntryFormat):
    """x = code · scale with codes -127 … 127 and one float16 scale per entry."""

    name: ClassVar[str] = "int8"
    parts: ClassVar[dict[str, torch.dtype]] = {"": torch.int8, "scale": torch.float16}
    widen_flop: ClassVar[int] = 2
    pack_flop: ClassVar[int] = 6

    def width(self, part: str, dim: int) -> int:
        """One scale per entry."""
        return 1 if part else dim

    def pack(self, x: torch.Tensor) -> Parts:
        """The scale maps the largest magnitude to 127."""
        scale = (x.abs().amax(-1, keepdim=True) / 127.0).clamp(0.0, HALF_MAX).half()
        return {"": (x / _divisor(scale)).round().clamp(-127, 127).to(torch.int8), "scale": scale}

    def unpack(self, parts: Parts) -> torch.Tensor:
        """One product per element."""
        return parts[""].float() * parts["scale"].float()


@dataclass(frozen=True, slots=True)
class Int4(EntryFormat):
    """x = code · scale + minimum with codes 0 … 15; float16 scale and minimum per group of GROUP elements.

    Byte j of a group of n elements holds element j in its low half and element j + n / 2 in its high half.
    """

    name: ClassVar[str] = "int4"
    parts: ClassVar[dict[str, torch.dtype]] = {"": torch.uint8, "scale": torch.float16, "min": torch.float16}
    widen_flop: ClassVar[int] = 4
    pack_flop: ClassVar[int] = 9

    def width(self, part: str, dim: int) -> int:
        """Two elements a byte, a scale and a minimum per group."""
        return -(-dim // GROUP) if part else dim // 2

    def pack(self, x: torch.Tensor) -> Parts:
        """The scale maps the span of a group to 15 steps."""
        packed: dict[str, list[torch.Tensor]] = {"": [], "scale": [], "min": []}
        for group in _pieces(x, GROUP):
            low, high = group.amin(-1, keepdim=True), group.amax(-1, keepdim=True)
            scale = ((high - low) / 15.0).clamp(0.0, HALF_MAX).half()
            minimum = low.clamp(-HALF_MAX, HALF_MAX).half()
            codes = ((group - minimum.float()) / _divisor(scale)).round().clamp(0, 15).to(torch.uint8)
            first, second = codes.chunk(2, -1)
            packed[""].append(first | second << 4)
            packed["scale"].append(scale)
            packed["min"].append(minimum)
        return {name: torch.cat(pieces, -1) for name, pieces in packed.items()}

    def unpack(self, parts: Parts) -> torch.Tensor:
        """One fused product and sum per element: in float64, which holds the product exactly, and rounded
        once."""
        groups = []
        for i, codes in enumerate(_pieces(parts[""], GROUP // 2)):
            scale, minimum = (parts[name][..., i : i + 1].double() for name in ("scale", "min"))
            groups.append(torch.cat((codes & 15, codes >> 4), -1).double() * scale + minimum)
        return torch.cat(groups, -1).float()


def _pieces(x: torch.Tensor, size: int) -> list[torch.Tensor]:
    """x [..., D] in pieces of `size` along D; the last may be shorter."""
    return [x[..., i : i + size] for i in range(0, x.shape[-1], size)]


def _divisor(scale: torch.Tensor) -> torch.Tensor:
    """The scale, or 1 where it is 0 and all codes are too."""
    wide = scale.float()
    return torch.where(wide > 0, wide, 1.0)


FORMATS: dict[str, EntryFormat] = {fmt.name: fmt for fmt in (Float32(), Float16(), Int8(), Int4())}
"""The formats by name."""


def entry_format(name: str) -> EntryFormat:
    """The format called `name`; ValueError with the nearest name where there is none."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ValueError(f"unknown cache format {name!r}; {nearest(name, FORMATS)}") from None
