"""A3: an accelerator of attention that scores only keys which are likely to matter; a baseline of SpAtten.

Source: "A3: Accelerating Attention Mechanisms in Neural Networks with Approximation" (HPCA 2020,
arXiv:2002.10941): every column of the keys is sorted beforehand; for each query some iterations pick the
largest products from the ends of the columns, and keys with a positive sum become candidates, the only ones
that are scored. So work is skipped, but no reads of the DRAM. Sorting pays where many queries see the same
keys: a single query, as in generation, is computed whole. In its favour, sorting is not charged, and every
candidate is said to be one that another iteration would have found. Figures are those at which SpAtten
(arXiv:2012.09852) compares it: 1 GHz, two times 64 multipliers, 64 GB/s. Linear layers, which its source
leaves to others, take its multipliers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil
from typing import ClassVar

from twofold.devices.machine import Peaks
from twofold.devices.machines.spatten import PAPER, SOURCES, Spatten, SpattenFigures, channels
from twofold.devices.parts.dram import Dram
from twofold.devices.parts.work import Work
from twofold.ops import Attention

SHARED = SOURCES | {
    "multipliers, hbm.shape.channels": PAPER + ": 128 multipliers and 64 GB/s for each of the compared",
    "sram_bytes": "assumption: as SpAtten's",
}


@dataclass(frozen=True, slots=True)
class SkippingFigures(SpattenFigures):
    """share: of a query's keys, or values, that are multiplied."""

    multipliers: int = 64
    hbm: Dram = field(default_factory=lambda: channels(4))
    share: float = 0.5


class A3(Spatten):
    """The modelled machine. `figures`: its numbers; usual: those of the machine by itself; skips: what it
    does not multiply."""

    name = "a3"
    title = "A3: attention to candidate keys, 128 multipliers at 1 GHz"
    source = "A3, HPCA 2020, arXiv:2002.10941"
    sources = SHARED | {"share": "assumption: half of the keys, the source's conservative setting"}
    usual: ClassVar[SkippingFigures] = SkippingFigures()
    skips: ClassVar[str] = "keys"

    figures: SkippingFigures

    def __init__(self, figures: SkippingFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or self.usual, tp=tp)

    def peaks(self) -> Peaks:
        """Of the work that a dense engine would do: all that the candidates stand for."""
        dense, share = super().peaks(), min(1.0, self.figures.share)
        rates = {precision: rate / share for precision, rate in dense.flop_per_second.items()}
        return replace(dense, flop_per_second=rates, joules_per_flop=dense.joules_per_flop * share)

    def attention(self, op: Attention) -> Work:
        """Over all entries of a dense cache."""
        if type(op) is not Attention:
            raise self.refusal(op, f"it skips {self.skips} by itself; plan without a technique for attention")
        return super().attention(op)

    def left(self, keys: int) -> int:
        """Keys, or values, that are multiplied of so many."""
        return min(keys, ceil(keys * self.figures.share))

    def _whole(self, op: Attention, rows: int, keys: int) -> list[Work]:
        if op.totals.queries == op.totals.num_seqs:
            return super()._whole(op, rows, keys)
        candidates = self.left(keys)
        picking = Work.of("array", rows * candidates / self.figures.hertz)
        return [*super()._whole(op, rows, candidates), picking]


MACHINE = A3
