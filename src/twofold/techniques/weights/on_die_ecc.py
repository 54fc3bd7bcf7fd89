"""8-bit weights in flash that returns some bits wrong; an error-correcting code on the die protects the
largest.

Source: the errors and the code of "Cambricon-LLM: A Chiplet-Based Hybrid Architecture for On-Device Inference
of 70B LLM" (arXiv:2409.15654), sections III-C and VI, applied to the weights that SmoothQuant makes. Differs:
the errors of a run are drawn once, when the weights are loaded; scales are read without errors, and so are
matrices that SmoothQuant leaves in more bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from twofold.models.weights import Matrix
from twofold.techniques.base import Info
from twofold.techniques.weights.flash_pages import FlashPages
from twofold.techniques.weights.learned import Learned
from twofold.techniques.weights.smoothquant import SmoothQuant


class ReadFromFlash(Learned):
    """The matrices of another scheme, their codes read from pages. counters: products, and what reading
    did."""

    def __init__(self, stored: Learned, pages: FlashPages) -> None:
        super().__init__(stored.rest, stored.counters)
        self.stored, self.pages = stored, pages

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> Matrix:
        """See `Learned.pack`."""
        return self._read(self.stored.pack(weight, out_features, in_features))

    def learned(self, key: str) -> Matrix | None:
        """See `Learned.learned`."""
        matrix = self.stored.learned(key)
        return None if matrix is None else self._read(matrix)

    def vector(self, name: str) -> torch.Tensor | None:
        """See `Learned.vector`: norms are not in flash."""
        return self.stored.vector(name)

    def _read(self, matrix: Matrix) -> Matrix:
        if matrix.tensors:
            matrix.tensors = {**matrix.tensors, "codes": self.pages.read(matrix.tensors["codes"])}
        return matrix


@dataclass(frozen=True)
class OnDieEcc(SmoothQuant):
    """error_rate: share of the stored bits that are read wrong. copies: stored beside each of the largest
    hundredth of a page's weights, an even number; 0: no correction. Other parameters: see
    `smoothquant.SmoothQuant`.
    """

    error_rate: float = 2e-4
    copies: int = 2

    info: ClassVar[Info] = Info(
        name="on-die-ecc",
        title="Cambricon-LLM: A Chiplet-Based Hybrid Architecture for On-Device Inference of 70B LLM",
        source="arXiv:2409.15654",
        summary="reads 8-bit weights from flash with bit errors and corrects the largest of each page",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )

    def __post_init__(self) -> None:
        SmoothQuant.__post_init__(self)
        if not 0 < self.error_rate < 0.5:
            raise ValueError(
                f"technique on-die-ecc: error_rate must lie between 0 and 0.5, not {self.error_rate}; use "
                "smoothquant for weights without errors"
            )
        if self.copies < 0 or self.copies % 2:
            raise ValueError(
                f"technique on-die-ecc: copies must be an even number, not {self.copies}, so that they and "
                f"the weight itself cannot tie in a vote; use {max(0, self.copies + 1)}"
            )

    def weight_scheme(self) -> ReadFromFlash:
        """SmoothQuant's, read from flash."""
        stored = super().weight_scheme()
        stored.counters |= {"bits_flipped": 0, "weights_wrong": 0}
        return ReadFromFlash(stored, FlashPages(self.error_rate, self.copies, stored.counters))
