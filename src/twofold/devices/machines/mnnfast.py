"""MNNFast: an accelerator of attention that skips values of small weight; a baseline of SpAtten.

Source: "MnnFast: A Fast and Scalable System Architecture for Memory-Augmented Neural Networks" (ISCA 2019):
keys and values stream by in columns with the softmax's division at the end; values whose weight is below a
threshold are read, but not multiplied. Figures are those at which SpAtten (arXiv:2012.09852) compares it: 1
GHz, two times 64 multipliers, 64 GB/s. Linear layers, which its source leaves to others, take its
multipliers.
"""

from __future__ import annotations

from dataclasses import replace

from twofold.devices.machine import Peaks
from twofold.devices.machines.a3 import A3, SHARED, SkippingFigures
from twofold.devices.machines.spatten import Spatten
from twofold.devices.parts.work import Work
from twofold.ops import Attention


class MnnFast(A3):
    """The modelled machine. `figures`: its numbers."""

    name = "mnnfast"
    title = "MNNFast: attention that skips small weights, 128 multipliers at 1 GHz"
    source = "MnnFast, ISCA 2019"
    sources = SHARED | {"share": "assumption: as many as SpAtten's workload for GPT-2 medium keeps"}
    usual = SkippingFigures(share=0.3)
    skips = "values"

    def peaks(self) -> Peaks:
        """Half of attention's products are of values, of which some are skipped."""
        dense, share = Spatten.peaks(self), (1.0 + min(1.0, self.figures.share)) / 2
        return replace(dense, joules_per_flop=dense.joules_per_flop * share)

    def _whole(self, op: Attention, rows: int, keys: int) -> list[Work]:
        return [*self._score(rows, keys, op.head_dim), self._multiply(rows, self.left(keys), op.v_dim)]


MACHINE = MnnFast
