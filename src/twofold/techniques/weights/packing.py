"""Codes of 3, 4, 6 and 8 bits packed into bytes, and quickly back to numbers.

Layout of a row: little-endian bit stream. 8 bits: one code a byte; 4 bits: two codes a byte, the first in the
low half; 6 bits: four codes in three bytes; 3 bits: eight codes in three bytes.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from twofold.techniques.weights.elements import E4M3, Element

# Codes go through tables two at a time; 64 bits carry two float32 through one look-up.
_PAIR = torch.int64


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [rows, n] (uint8, one a byte) to bytes [rows, n · bits / 8]; n is a multiple of 8."""
    if bits == 8:
        return codes.contiguous()
    if bits == 4:
        return codes[:, 0::2] | codes[:, 1::2] << 4
    if bits == 3:  # two codes of 3 bits lie as one of 6
        return pack(codes[:, 0::2] | codes[:, 1::2] << 3, 6)
    assert bits == 6, bits
    a, b, c, d = (codes[:, i::4] for i in range(4))
    return torch.stack((a | b << 6, b >> 2 | c << 4, c >> 4 | d << 2), dim=-1).flatten(1)


def unpack(packed: torch.Tensor, element: Element) -> torch.Tensor:
    """Bytes of `pack` [rows, n · bits / 8] to the codes' values, float32 [rows, n]."""
    rows = packed.shape[0]
    if element.bits == 8:
        return _unpack_bytes(packed, element)
    if element.bits == 4:
        pairs = packed.reshape(-1).int()
    else:
        triples = packed.reshape(-1, 3).int()
        low, middle, high = triples.unbind(1)
        pairs = torch.empty(triples.shape[0], 2, dtype=torch.int32, device=packed.device)
        torch.bitwise_or(low, (middle & 15) << 8, out=pairs[:, 0])
        torch.bitwise_or(middle >> 4, high << 4, out=pairs[:, 1])
        if element.bits == 3:  # each of these 12 bits are two pairs
            pairs = torch.stack((pairs & 63, pairs >> 6), dim=-1)
        pairs = pairs.view(-1)
    found = torch.index_select(_pairs(element, packed.device), 0, pairs)
    return found.view(torch.float32).view(rows, -1)


def _unpack_bytes(packed: torch.Tensor, element: Element) -> torch.Tensor:
    if element.integer:
        return packed.view(torch.int8).float()
    # Exponent and mantissa of E4M3 lie in binary16 with three mantissa bits used and a bias larger by 8,
    # subnormals included, so that moving bits replaces a look-up: sign to bit 15, the other seven to bits
    # 13..7.
    assert element == E4M3, element
    half = packed.view(torch.int8).to(torch.int16)
    half = half.bitwise_left_shift_(7).bitwise_and_(~0x4000).view(torch.float16)
    return half.float().mul_(2.0**8)


@lru_cache(maxsize=32)
def _pairs(element: Element, device: torch.device) -> torch.Tensor:
    """Both values of every pair of codes (the first code low), as one 64-bit entry each: [4^bits]."""
    values = element.table(device)
    first, second = values.repeat(len(values)), values.repeat_interleave(len(values))
    return torch.stack((first, second), dim=1).view(_PAIR).view(-1)
