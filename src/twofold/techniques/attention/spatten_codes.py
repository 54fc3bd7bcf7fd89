"""Symmetric codes of eight bits that can be read by their upper half alone."""

from __future__ import annotations

import torch

from twofold.techniques.cache.groups import pack, unpack

_HALF = 4
_CENTRE = 128


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, K, D] to whole numbers from -127 to 127, float32, and scales, fp16 [T, K]."""
    x = x.float()
    scale = (x.abs().amax(-1) / 127).clamp(1e-7, 6e4).half()
    return x.div(scale.float().unsqueeze(-1)).round_().clamp_(-127, 127), scale


def halves(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers [..., D] of `quantise` as their upper and their lower bits, packed, uint8 [..., D /
    2] each."""
    codes = (numbers + _CENTRE).to(torch.uint8)
    return pack(codes >> _HALF, _HALF), pack(codes & 15, _HALF)


def joined(upper: torch.Tensor, lower: torch.Tensor | None) -> torch.Tensor:
    """The whole numbers that `halves` made, float32 [..., D]; without the lower bits the middle of what
    they may be."""
    codes = unpack(upper, _HALF).mul_(16)
    codes += 7.5 if lower is None else unpack(lower, _HALF)
    return codes.sub_(_CENTRE)
