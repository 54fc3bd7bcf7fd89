"""Scales that a block of numbers shares: how one is chosen, stored, and turned back into a factor.

`choose` gets the largest magnitude of each block and the largest value of the element type; their quotient is
the scale that uses the whole range without clipping, and each kind stores the nearest that it can.
"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, NamedTuple

import torch

from twofold.techniques.weights.elements import E4M3


class Scales(NamedTuple):
    """Stored scales: `blocks` [rows, blocks], and for two-level kinds a float32 `tensor` [1] or [rows, 1]."""

    blocks: torch.Tensor
    tensor: torch.Tensor | None = None


class Scale:
    """A kind of scale. bits: per block; tensor_bits: per tensor."""

    bits: ClassVar[int]
    tensor_bits: ClassVar[int] = 0

    def choose(self, largest: torch.Tensor, maximum: float, *, per_row: bool = False) -> Scales:
        """Scales for blocks whose largest magnitudes are `largest` [rows, blocks]; per_row: a second level
        for each row instead of one for the tensor."""
        raise NotImplementedError

    def factors(self, scales: Scales) -> torch.Tensor:
        """The factors that stored scales stand for, float32 [rows, blocks]."""
        raise NotImplementedError


class E8M0(Scale):
    """A power of two from 2^-127 to 2^127, rounded up so that nothing is clipped (OCP MX rounds down)."""

    bits = 8

    def choose(self, largest: torch.Tensor, maximum: float, *, per_row: bool = False) -> Scales:
        """The least power of two that is not below largest / maximum; found without rounding."""
        del per_row
        fraction, exponent = torch.frexp(largest)
        top, top_exponent = torch.frexp(torch.tensor(maximum))
        exponent = exponent - top_exponent.to(exponent.device) + (fraction > top.item())
        exponent = torch.where(largest > 0, exponent, -127)
        return Scales((exponent.clamp_(-127, 127) + 127).to(torch.uint8))

    def factors(self, scales: Scales) -> torch.Tensor:
        """2^(stored - 127)."""
        return _look_up(_powers(scales.blocks.device), scales.blocks)


class E4M3Scale(Scale):
    """An E4M3 number per block, and a float32 per tensor such that the largest block's scale is E4M3's
    maximum."""

    bits = 8
    tensor_bits = 32

    def choose(self, largest: torch.Tensor, maximum: float, *, per_row: bool = False) -> Scales:
        """The nearest E4M3 in units of the tensor's scale; never zero for a block that is not zero."""
        top = largest.amax(-1, keepdim=True) if per_row else largest.max().view(1)
        tensor = top / (maximum * E4M3.maximum)
        wanted = largest / maximum / torch.where(tensor > 0, tensor, 1.0)
        smallest = E4M3.table()[1].item()
        blocks = torch.where(largest > 0, E4M3.round(wanted).clamp_(min=smallest), 0.0)
        return Scales(E4M3.encode(blocks), tensor)

    def factors(self, scales: Scales) -> torch.Tensor:
        """Block scale times tensor scale."""
        assert scales.tensor is not None
        return _look_up(E4M3.table(scales.blocks.device), scales.blocks) * scales.tensor


class BF16Scale(Scale):
    """The quotient itself in bfloat16, whose range is float32's: no weight is out of reach."""

    bits = 16

    def choose(self, largest: torch.Tensor, maximum: float, *, per_row: bool = False) -> Scales:
        """Nearest bfloat16 of largest / maximum."""
        del per_row
        return Scales((largest / maximum).bfloat16())

    def factors(self, scales: Scales) -> torch.Tensor:
        """The stored scales, widened."""
        return scales.blocks.float()


def _look_up(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return torch.index_select(table, 0, codes.reshape(-1).int()).view(codes.shape)


@lru_cache(maxsize=8)
def _powers(device: torch.device) -> torch.Tensor:
    """2^(code - 127) by code; 255 is NaN."""
    values = [2.0 ** (code - 127) for code in range(255)]
    return torch.tensor([*values, float("nan")], dtype=torch.float32, device=device)
