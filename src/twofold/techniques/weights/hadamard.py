"""Random Hadamard rotation of a tensor's last dimension, block by block.

R = diag(signs) · H / sqrt(size) is orthogonal, so that (x R)(W R)^T = x W^T, while an outlier of x or W is
spread over its block. All whole blocks share the same signs. Features that do not fill a block are rotated in
blocks of the next smaller powers of two: the width never changes and nothing is left out.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

SEED = 0


def rotate(x: torch.Tensor, size: int) -> torch.Tensor:
    """float32 `x` [..., n] rotated in blocks of `size` (a power of two); same shape, a new tensor."""
    assert size.bit_count() == 1, size
    n = x.shape[-1]
    whole = n - n % size
    head = _rotate_blocks(x[..., :whole], size) if whole else x[..., :0]
    if whole == n:
        return head
    return torch.cat((head, rotate(x[..., whole:], size // 2)), dim=-1)


def rotation_flop(n: int, size: int) -> int:
    """Elementwise operations to rotate `n` features: one to scale each, one per butterfly stage."""
    whole = n - n % size
    rest = 0 if whole == n else rotation_flop(n - whole, size // 2)
    return whole * size.bit_length() + rest


def _rotate_blocks(x: torch.Tensor, size: int) -> torch.Tensor:
    """The fast Walsh-Hadamard transform: log2(size) stages of sums and differences of pairs."""
    y = x.reshape(*x.shape[:-1], -1, size) * signs(size, x.device)
    step = 1
    while step < size:
        a, b = y.view(*y.shape[:-1], -1, 2, step).unbind(-2)
        y = torch.stack((a + b, a - b), dim=-2).flatten(-3)
        step *= 2
    return y.view(x.shape)


@lru_cache(maxsize=32)
def signs(size: int, device: torch.device) -> torch.Tensor:
    """Random signs with the transform's normalisation 1 / sqrt(size), [size]; the same on every device."""
    generator = torch.Generator().manual_seed(SEED)
    signs = torch.randint(0, 2, (size,), generator=generator).float().mul_(2.0).sub_(1.0)
    return signs.mul_(1.0 / math.sqrt(size)).to(device)
