"""Rows of numbers as ALISA stores them: keys and values of a token, or what they are computed from.

Shape letters: T rows, W numbers of a row, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from twofold.models.cache_memory import reserve
from twofold.models.weights import TORCH_DTYPES
from twofold.ops.base import Precision
from twofold.techniques.cache.groups import SCALE_BYTES, Groups, dequantise, quantise

Parts = dict[str, torch.Tensor]
"""Stored rows by part, the same leading dimensions in each."""

BITS = 8


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Rows of `width` numbers, computed with in `compute`. group: numbers that share a scale and a zero
    point, in codes of eight bits; 0 where rows are stored as they are computed with, of act_bytes a number.

    Parts: codes uint8 [..., W] and scales fp16 [..., 2, G]; or rows [..., W].
    """

    width: int
    group: int
    compute: Precision
    act_bytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        if not self.group:
            return self.width * self.act_bytes
        return self.width + self.width // self.group * SCALE_BYTES

    @property
    def pack_flop(self) -> int:
        """Elementwise operations to store a row: minimum, maximum, subtract, multiply, round, clamp."""
        return 6 * self.width if self.group else 0

    @property
    def widen_flop(self) -> int:
        """Elementwise operations to read a row: multiply, add."""
        return 2 * self.width if self.group else 0

    def reserve(self, lead: tuple[int, ...], where: torch.device) -> Parts:
        """Room for rows [lead, W], zero."""
        if not self.group:
            return {"rows": reserve((*lead, self.width), TORCH_DTYPES[self.compute], where)}
        return {
            "codes": reserve((*lead, self.width), torch.uint8, where),
            "scales": reserve((*lead, 2, self.width // self.group), torch.float16, where),
        }

    def pack(self, x: torch.Tensor) -> Parts:
        """x [T, W] as it is stored."""
        if not self.group:
            return {"rows": x}
        codes, scale, zero = quantise(x.reshape(-1, self.width // self.group, self.group), BITS)
        return {"codes": codes.flatten(1), "scales": torch.stack((scale, zero), 1)}

    def widen(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Stored rows [T, ...] as [T, W] in the compute precision."""
        if not self.group:
            return parts["rows"]
        codes = parts["codes"].view(-1, self.width // self.group, self.group)
        scale, zero = parts["scales"].unbind(1)
        numbers = dequantise(Groups(codes, scale, zero), BITS)
        return numbers.flatten(1).to(TORCH_DTYPES[self.compute])


def take(parts: Mapping[str, torch.Tensor], at: torch.Tensor, where: torch.device) -> Parts:
    """Copies of rows `at` (int64) of stored rows [N, ...], on `where`."""
    return {name: t.index_select(0, at.to(t.device)).to(where) for name, t in parts.items()}


def put(parts: Mapping[str, torch.Tensor], at: torch.Tensor | slice, new: Mapping[str, torch.Tensor]) -> None:
    """Write stored rows [T, ...] into rows `at` of stored rows [N, ...]."""
    for name, t in parts.items():
        if isinstance(at, torch.Tensor):
            t.index_copy_(0, at.to(t.device), new[name].to(t.device))
        else:
            t[at] = new[name].to(t.device)


def joined(pieces: list[Parts]) -> Parts:
    """Stored rows of all pieces, one behind the other."""
    if len(pieces) == 1:
        return pieces[0]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
