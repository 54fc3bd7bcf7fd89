"""Codes of two bits that two low bits can refine: asymmetric, with a scale and a zero point per group.

A code c stands for `zero + c · scale`. A group of high precision has codes of four bits, of which the
upper two and the lower two are stored apart; one of low precision has codes of two bits, stored where the
others have the upper ones. Scales and zero points are rounded to fp16 before the codes are chosen.
"""

from __future__ import annotations

import torch

from twofold.techniques.cache.groups import pack, unpack

_FP16_MAX = 65504.0
LOW_BITS = 2
"""Bits of a code of low precision, and of each half of one of high precision."""


def quantise_rows(x: torch.Tensor, is_high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x [T, G, D] in groups of D, those of rows with is_high [T] in high precision: the upper and the
    lower bits, packed, uint8 [T, G · D / 4] each (the lower ones zero in low precision), and scales and
    zero points, fp16 [T, 2, G]."""
    low, high = x.aminmax(dim=-1)
    top = torch.where(is_high, 15.0, 3.0)[:, None]
    zero = low.clamp(-_FP16_MAX, _FP16_MAX).half()
    scale = ((high - low) / top).clamp(max=_FP16_MAX).half()
    step = scale.float()
    inverse = torch.where(step > 0, step.reciprocal(), 0.0)
    codes = x.sub(zero.float().unsqueeze(-1)).mul_(inverse.unsqueeze(-1)).round_()
    codes = torch.minimum(codes.clamp_(min=0), top.unsqueeze(-1)).to(torch.uint8).flatten(1)
    upper = torch.where(is_high[:, None], codes >> LOW_BITS, codes)
    lower = torch.where(is_high[:, None], codes & 3, 0)
    return pack(upper, LOW_BITS), pack(lower, LOW_BITS), torch.stack((scale, zero), 1)


def widen_rows(
    upper: torch.Tensor, lower: torch.Tensor, at: torch.Tensor, scales: torch.Tensor, groups: int
) -> torch.Tensor:
    """Numbers of N rows, float32 [N, groups, D]: upper uint8 [N, groups · D / 4] of all, lower of the
    rows `at` (int64), which are of high precision, scales fp16 [N, 2, groups]."""
    lows = torch.zeros_like(upper).index_copy_(0, at, lower)
    step = torch.ones(upper.shape[0], 1, device=upper.device).index_fill_(0, at, 1 << LOW_BITS)
    codes = unpack(upper, LOW_BITS).mul_(step).add_(unpack(lows, LOW_BITS))
    numbers = codes.view(codes.shape[0], groups, -1)
    scale, zero = scales.float().unbind(1)
    return numbers.mul_(scale.unsqueeze(-1)).add_(zero.unsqueeze(-1))
