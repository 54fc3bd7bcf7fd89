"""Convolutions of images. Shape letters: B batch, C channels in, O channels out, G groups, H, W, K sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twofold.kernels.registry import reference
from twofold.ops.convolution import Conv2d


@reference(Conv2d)
def conv2d(op: Conv2d, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [B, C, H, W] and filters [O, C / G, K, K] to [B, O, H', W']."""
    return F.conv2d(x, weight, stride=op.stride, padding=op.padding, groups=op.groups)
