"""Pages of 8-bit weights as flash returns them: with flipped bits, which the die corrects or not.

The code protects the largest weights of a page: their positions, copies of them, and the smallest of their
magnitudes lie in the page's spare area. Of a protected weight, each bit is what most of its copies say; any
other weight that is larger than the smallest protected one must be wrong, and is set to zero. Source: section
VI of Cambricon-LLM (arXiv:2409.15654).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

PAGE = 16384
"""Weights of a page, a byte each."""
PROTECTED = 163
"""Of them: one in a hundred."""
THRESHOLD_COPIES = 9
ADDRESS_BITS = 14 + 5
"""Bits of a position and its Hamming code, which corrects one flipped bit; with more than one, the weight is
not protected."""


def code_bits(copies: int) -> int:
    """Bits of a page's code: copies of the threshold, and the position and copies of each protected
    weight."""
    return 8 * THRESHOLD_COPIES + (ADDRESS_BITS + 8 * copies) * PROTECTED


@dataclass(slots=True)
class FlashPages:
    """error_rate: share of the stored bits that are read wrong; copies: of each protected weight, beside the
    weight itself, an even number; 0 leaves errors as they are. counters: what reading did so far."""

    error_rate: float
    copies: int
    counters: dict[str, int]
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def read(self, stored: torch.Tensor) -> torch.Tensor:
        """`stored` (uint8, integers in two's complement) as it is read, same shape."""
        pages = torch.nn.functional.pad(stored.flatten().cpu(), (0, -stored.numel() % PAGE)).view(-1, PAGE)
        read = self._noisy(pages)
        if self.copies:
            read = self._corrected(pages, read)
        self.counters["weights_wrong"] += int((read != pages).sum())
        return read.flatten()[: stored.numel()].view_as(stored).to(stored.device)

    def _corrected(self, pages: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        magnitude = _magnitude(pages)
        largest, at = magnitude.topk(PROTECTED)
        smallest = largest[:, -1:].to(torch.uint8)
        threshold = _majority(self._noisy(smallest.repeat(1, THRESHOLD_COPIES)).unbind(1))[:, None]
        rates = torch.full(at.shape, self.error_rate)
        wrong = torch.binomial(torch.full(at.shape, float(ADDRESS_BITS)), rates, generator=self.random)
        known = wrong <= 1
        copies = [self._noisy(pages.gather(1, at)) for _ in range(self.copies)]
        protected = _majority([*copies, noisy.gather(1, at)])
        too_large = _magnitude(noisy) > threshold
        read = noisy.masked_fill(too_large, 0)
        return read.scatter(1, at, torch.where(known, protected, read.gather(1, at)))

    def _noisy(self, stored: torch.Tensor) -> torch.Tensor:
        """`stored` with its share of bits flipped."""
        bits = stored.numel() * 8
        total = torch.tensor(float(bits), dtype=torch.float64)
        rate = torch.tensor(self.error_rate, dtype=torch.float64)
        count = int(torch.binomial(total, rate, generator=self.random))
        at = torch.unique(torch.randint(bits, (count,), generator=self.random))
        self.counters["bits_flipped"] += len(at)
        read = stored.flatten().clone()
        for bit in range(8):
            read[at[at % 8 == bit] // 8] ^= 1 << bit
        return read.view_as(stored)


def _magnitude(codes: torch.Tensor) -> torch.Tensor:
    """Of integers in two's complement, 0 to 128."""
    return codes.view(torch.int8).to(torch.int16).abs()


def _majority(copies: Sequence[torch.Tensor]) -> torch.Tensor:
    """Bit by bit what more than half of an odd number of `copies` say."""
    found = torch.zeros_like(copies[0])
    for bit in range(8):
        votes = torch.stack([copy >> bit & 1 for copy in copies]).sum(0)
        found |= (votes > len(copies) // 2).to(torch.uint8) << bit
    return found
