"""Asymmetric group quantisation: packed unsigned codes, with a scale and a zero point a group in fp16.

A code c stands for `zero + c · scale`, where `zero` is the least number of the group and the scale spreads
the codes evenly up to the greatest. Both are rounded to fp16 before the codes are chosen, so that codes fit
what is stored: the error of an element is at most half a scale, plus what rounding to fp16 moved the two ends
of the range.
Packing: byte j of a group of n codes holds codes j, j + n / p, j + 2 n / p … of p = 8 / bits codes a byte,
the first lowest, so that equal shifts of neighbouring bytes give neighbouring codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

BITS = (2, 4, 8)
SCALE_BYTES = 4
"""Bytes of one group beside its codes: scale and zero point, two bytes each."""

_FP16_MAX = 65504.0


class Groups(NamedTuple):
    """Quantised groups of G numbers: codes uint8 [..., G · bits / 8], scale and zero fp16 [...]."""

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor


def quantise(x: torch.Tensor, bits: int) -> Groups:
    """The groups that lie along the last dimension of `x` [..., G], which is a multiple of 8 / bits."""
    x = x.float()
    low, high = x.aminmax(dim=-1)
    top = 2**bits - 1
    # Values beyond fp16 are clipped: an infinite zero point would poison the whole group.
    zero = low.clamp(-_FP16_MAX, _FP16_MAX).half()
    scale = ((high - low) / top).clamp(max=_FP16_MAX).half()
    step = scale.float()
    # A group of equal numbers has no scale: its codes are 0 and its zero point says it all.
    inverse = torch.where(step > 0, step.reciprocal(), 0.0)
    codes = x.sub(zero.float().unsqueeze(-1)).mul_(inverse.unsqueeze(-1)).round_().clamp_(0, top)
    return Groups(pack(codes.to(torch.uint8), bits), scale, zero)


def dequantise(groups: Groups, bits: int) -> torch.Tensor:
    """The numbers that `groups` stand for, float32 [..., G]."""
    numbers = unpack(groups.codes, bits)
    return numbers.mul_(groups.scale.float().unsqueeze(-1)).add_(groups.zero.float().unsqueeze(-1))


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [..., n] (uint8, one a byte, each below 2^bits) to bytes [..., n · bits / 8]."""
    assert bits in BITS, bits
    first, *others = codes.chunk(8 // bits, -1)
    packed = first.clone()
    for i, part in enumerate(others, 1):
        packed |= part << (bits * i)
    return packed


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Bytes of `pack` [..., n · bits / 8] to codes, float32 [..., n]."""
    if bits == 8:
        return packed.float()
    count = 8 // bits
    codes = torch.empty(*packed.shape[:-1], count, packed.shape[-1], device=packed.device)
    for i in range(count):
        shifted = packed >> (bits * i)
        codes[..., i, :] = shifted if i == count - 1 else shifted & ((1 << bits) - 1)
    return codes.flatten(-2)
