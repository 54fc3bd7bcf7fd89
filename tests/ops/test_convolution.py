"""Convolutions: their cost is that of the kernel that computes them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from twofold.kernels.reference import convolution  # noqa: F401  (registers the kernel)
from twofold.kernels.registry import REFERENCE
from twofold.ops import Conv2d

SHAPES = [
    Conv2d(2, 6, 10, 9, 7, 3, "f32", 4 * 10 * 6 * 9, "fp32", 4, stride=2, padding=1),
    Conv2d(1, 8, 8, 12, 12, 3, "f32", 4 * 8 * 9, "fp32", 4, padding=1, groups=8),
    Conv2d(1, 8, 16, 12, 12, 3, "f32", 4 * 16 * 2 * 9, "fp32", 4, groups=4),
    Conv2d(5, 12, 7, 1, 1, 1, "f32", 4 * 84, "fp32", 4),
]


@pytest.mark.parametrize("op", SHAPES, ids=lambda op: f"{op.in_channels}-{op.out_channels}-{op.groups}")
def test_cost_is_that_of_the_kernel(op: Conv2d) -> None:
    """FLOP as torch counts them; bytes as the tensors have them; the result's shape."""
    x = torch.randn(op.batch, op.in_channels, op.height, op.width)
    weight = torch.randn(op.out_channels, op.in_channels // op.groups, op.kernel, op.kernel)
    with FlopCounterMode(display=False) as counter:
        y = REFERENCE[Conv2d](op, x, weight)
    assert y.shape == (op.batch, op.out_channels, op.out_height, op.out_width)
    cost = op.cost()
    assert cost.flop == counter.get_total_flops()
    assert op.weight_bytes == weight.nbytes
    assert cost.bytes_moved == x.nbytes + weight.nbytes + y.nbytes


def test_groups_must_divide_the_channels() -> None:
    """Of inputs and of outputs."""
    with pytest.raises(ValueError, match="cannot have 3 groups"):
        Conv2d(1, 6, 8, 4, 4, 1, "f16", 96, "fp16", 2, groups=3)
