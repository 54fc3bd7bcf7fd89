"""Block floating point (BFP): integers of a few bits, with the exponent of the largest shared by a block.

Of a block whose largest magnitude lies in [2^e, 2^(e+1)), an element is code · 2^(e - m + 2) with codes of m
bits, symmetric around zero: the largest uses all of them, and what would round beyond them saturates.
Exponents take a byte. Codes of 4 bits lie two to a byte.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from twofold.techniques.cache.groups import pack, unpack

EXPONENT_BIAS = 127
WIDEN_FLOP, PACK_FLOP = {8: 2, 4: 4}, {8: 6, 4: 8}
"""Elementwise operations to widen one element (shift and mask where two share a byte, offset, multiply), and
to pack one (magnitude, maximum, multiply, round, clamp (two), shift and or)."""


class Blocks(NamedTuple):
    """Codes uint8 [..., blocks, n · bits / 8], offset so that they are not negative, and exponents uint8
    [..., blocks]."""

    codes: torch.Tensor
    exponents: torch.Tensor


def encode(x: torch.Tensor, bits: int) -> Blocks:
    """The blocks that lie along the last dimension of `x` [..., blocks, n]. NaN and infinities give zeros."""
    x = torch.nan_to_num(x.float(), 0.0, 0.0, 0.0)
    largest = x.abs().amax(-1)
    _, exponent = torch.frexp(largest)  # largest = f · 2^exponent with f in [0.5, 1)
    stored = torch.where(largest > 0, exponent - bits + 1, -EXPONENT_BIAS).clamp(-126, 127) + EXPONENT_BIAS
    top = 2 ** (bits - 1) - 1
    stored = torch.where(largest > 0, stored, 0).to(torch.uint8)
    codes = (x / _scale(stored).unsqueeze(-1)).round_().clamp_(-top, top).add_(top + 1)
    return Blocks(pack(codes.to(torch.uint8), bits), stored)


def decode(blocks: Blocks, bits: int) -> torch.Tensor:
    """The numbers that `blocks` stand for, float32 [..., blocks, n]."""
    codes = unpack(blocks.codes, bits).sub_(2.0 ** (bits - 1))
    return codes.mul_(_scale(blocks.exponents).unsqueeze(-1))


def _scale(exponents: torch.Tensor) -> torch.Tensor:
    """2^(stored - 127) as float32, by its bits; stored 0, of blocks of zeros, is the least normal number."""
    return (exponents.int().clamp(min=1) << 23).view(torch.float32)
