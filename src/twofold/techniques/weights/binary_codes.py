"""Binary-coded quantisation: the factors and signs that come nearest to groups of weights.

A weight of a group is approximated by z + sum_i alpha_i b_i with signs b_i. At first the sums are evenly
spaced from the smallest weight to the largest (a uniform quantiser in binary codes). Then factors and signs
take turns: factors by least squares for the signs, signs as the nearest of the 2^q sums for the factors, so
that the error never grows. Sources: Xu et al., "Alternating Multi-bit Quantization for Recurrent Neural
Networks", arXiv:1802.00150, which starts greedily; the offset z and uniform codes: arXiv:2206.09557, section
3.

The weights nearest to a sum are a range of the sorted weights, so that a round costs torch a few binary
searches per group instead of a pass over its weights.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F

from twofold.kernels.cpu import native
from twofold.kernels.cpu.threads import default_threads

_CHUNK = 1 << 20
"""Weights taken at a time: they and what is computed from them stay in the processor's cache."""
_RIDGE = 1e-6
"""Share of the group added to the diagonal, so that two planes that are equal in a whole group get half
each."""


class BinaryCodes(NamedTuple):
    """codes: uint8 [n, g], bit i is set where b_i is 1; alpha: float32 [n, q]; z: float32 [n]."""

    codes: torch.Tensor
    alpha: torch.Tensor
    z: torch.Tensor


def signs_of_codes(bits: int) -> torch.Tensor:
    """The signs of all codes, float32 [2^bits, bits]."""
    codes = torch.arange(1 << bits)
    return 2.0 * ((codes[:, None] >> torch.arange(bits)) & 1) - 1.0


def binary_codes(groups: torch.Tensor, bits: int, rounds: int) -> BinaryCodes:
    """The codes of `groups` [n, g] after `rounds` rounds; by native code where it is installed."""
    module = native()
    if module is not None and groups.device.type == "cpu":
        return _native(module, groups.float().contiguous(), bits, rounds)
    return plain_binary_codes(groups, bits, rounds)


def plain_binary_codes(groups: torch.Tensor, bits: int, rounds: int) -> BinaryCodes:
    """The same in plain torch, on any device: what native code is held against."""
    step = max(1, _CHUNK // groups.shape[1])
    found = [_some(groups[at : at + step].float(), bits, rounds) for at in range(0, len(groups), step)]
    return BinaryCodes(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _native(module: ModuleType, groups: torch.Tensor, bits: int, rounds: int) -> BinaryCodes:
    count, size = groups.shape
    codes = torch.empty(count, size, dtype=torch.uint8)
    alpha, z = torch.empty(count, bits), torch.empty(count)
    module.binary_codes(
        groups.data_ptr(),
        count,
        size,
        bits,
        rounds,
        default_threads(),
        codes.data_ptr(),
        alpha.data_ptr(),
        z.data_ptr(),
    )
    return BinaryCodes(codes, alpha, z)


def _some(groups: torch.Tensor, bits: int, rounds: int) -> BinaryCodes:
    signs = signs_of_codes(bits).to(groups.device)
    low, high = groups.aminmax(dim=-1)
    step = (high - low) / (len(signs) - 1)
    factors = torch.stack([*(step * 2.0 ** (i - 1) for i in range(bits)), (high + low) / 2])  # [q + 1, n]
    design = torch.cat((signs, torch.ones(len(signs), 1, device=signs.device)), 1)  # [2^q, q + 1]
    ordered = groups.sort(-1).values
    sums = F.pad(ordered.double().cumsum(-1), (1, 0))
    for _ in range(rounds):
        order, ends = _ranges(ordered, design, factors)
        total = F.pad(sums.gather(1, ends), (1, 0)).diff(dim=1).float()
        count = F.pad(ends, (1, 0)).diff(dim=1).float()
        factors = _least_squares(design[order], count, total)
    order, _ = _ranges(ordered, design, factors)
    values = (design @ factors).T.gather(1, order)
    nearest = torch.searchsorted(((values[:, 1:] + values[:, :-1]) / 2).contiguous(), groups.contiguous())
    codes = order.gather(1, nearest)
    return BinaryCodes(codes.to(torch.uint8), factors[:-1].T.contiguous(), factors[-1])


def _ranges(
    ordered: torch.Tensor, design: torch.Tensor, factors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes of each group by their values, [n, 2^q], and where the weights nearest to each end in the
    `ordered` ones, [n, 2^q]."""
    values, order = (design @ factors).T.sort(-1)
    middles = ((values[:, 1:] + values[:, :-1]) / 2).contiguous()
    ends = torch.searchsorted(ordered, middles, right=True)
    return order, F.pad(ends, (0, 1), value=ordered.shape[1])


def _least_squares(design: torch.Tensor, count: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """The factors [q + 1, n] that fit best where `count` [n, 2^q] weights that add up to `total` have the
    codes whose rows of the design matrix are `design` [n, 2^q, q + 1]."""
    weighted = design * count.unsqueeze(-1)
    matrix = (design.mT @ weighted).permute(1, 2, 0).contiguous()  # [q + 1, q + 1, n]
    right = (design * total.unsqueeze(-1)).sum(1).T.contiguous()
    size = len(matrix)
    ridge = _RIDGE * count.sum(-1)
    for k in range(size):
        matrix[k, k] += ridge
    # Elimination without pivots, for all groups at once: the matrix is positive definite.
    for k in range(size):
        for i in range(k + 1, size):
            share = matrix[i, k] / matrix[k, k]
            matrix[i, k:] -= share * matrix[k, k:]
            right[i] -= share * right[k]
    out = torch.empty_like(right)
    for k in reversed(range(size)):
        out[k] = (right[k] - (matrix[k, k + 1 :] * out[k + 1 :]).sum(0)) / matrix[k, k]
    return out
