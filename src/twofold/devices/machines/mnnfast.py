"""MNNFast: an accelerator of attention that skips values of small weight; a baseline of SpAtten.

Source: "MnnFast: A Fast and Scalable System Architecture for Memory-Augmented Neural Networks" (ISCA 2019):
keys and values stream by in columns with the softmax's division at the end; values whose weight is below a
threshold are read, but not multiplied. Figures are those at which SpAtten (arXiv:2012.09852) compares it: 1
GHz, two times 64 multipliers, 64 GB/s. Linear layers, which its source leaves to others, take its
multipliers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from twofold.devices.machine import Peaks
from twofold.devices.machines.a3 import SHARED
from twofold.devices.machines.spatten import Spatten, SpattenFigures, channels
from twofold.devices.parts.dram import Dram
from twofold.devices.parts.work import Work
from twofold.ops import Attention


@dataclass(frozen=True, slots=True)
class MnnFastFigures(SpattenFigures):
    """kept: share of the values that are multiplied."""

    multipliers: int = 64
    hbm: Dram = field(default_factory=lambda: channels(4))
    kept: float = 0.3


class MnnFast(Spatten):
    """The modelled machine. `figures`: its numbers."""

    name = "mnnfast"
    title = "MNNFast: attention that skips small weights, 128 multipliers at 1 GHz"
    source = "MnnFast, ISCA 2019"
    sources = SHARED | {"kept": "assumption: as many as SpAtten's workload for GPT-2 medium keeps"}

    figures: MnnFastFigures

    def __init__(self, figures: MnnFastFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or MnnFastFigures(), tp=tp)

    def peaks(self) -> Peaks:
        """Half of attention's products are of values, of which some are skipped."""
        dense, share = super().peaks(), (1.0 + min(1.0, self.figures.kept)) / 2
        return replace(dense, joules_per_flop=dense.joules_per_flop * share)

    def attention(self, op: Attention) -> Work:
        """Over all entries of a dense cache."""
        if type(op) is not Attention:
            raise self.refusal(op, "it skips values by itself; plan without a technique for attention")
        return super().attention(op)

    def _whole(self, op: Attention, rows: int, keys: int) -> Work:
        kept = min(keys, ceil(keys * self.figures.kept))
        return self._score(rows, keys, op.head_dim).beside(self._multiply(rows, kept, op.v_dim))


MACHINE = MnnFast
