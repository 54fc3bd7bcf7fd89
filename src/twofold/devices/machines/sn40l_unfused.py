"""The same chip as the SN40L, used as a GPU is: one launch an operator, intermediates through HBM.

Source: Prabhakar et al., "SambaNova SN40L" (arXiv:2405.07518; MICRO 2024), section VI-A: the unfused
baseline. Every operator of the model is a kernel or several, scheduled from the host; what it makes goes to
HBM and comes back. Attention is four: scores, mask, softmax, values.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.devices.machines.sn40l import SOURCES, Sn40l, Sn40lFigures
from twofold.devices.parts.work import Work
from twofold.ops import Attention, Op
from twofold.ops.base import DEVICE

ATTENTION_KERNELS = 4
_SCORE_PASSES = 6
"""How often scores cross to or from HBM: made, masked (in, out), softmax (in, out), used."""


@dataclass(frozen=True, slots=True)
class UnfusedFigures(Sn40lFigures):
    """command_seconds: of a launch by the host."""

    command_seconds: float = 2e-6


class Sn40lUnfused(Sn40l):
    """See `Sn40l`. Its ops follow each other, messages too."""

    name = "sn40l-unfused"
    title = "SambaNova SN40L, one launch an operator"
    source = "the unfused baseline of SN40L, arXiv:2405.07518; MICRO 2024"
    sources = SOURCES | {
        "command_seconds": "assumption: a small DMA transfer over PCIe as in the device catalogue, 2 us; not "
        "published for this host"
    }
    more = ("flop", "hbm.bandwidth")

    figures: UnfusedFigures

    def __init__(self, figures: UnfusedFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or UnfusedFigures(), tp=tp)

    def unit(self, op: Op) -> str:
        """None: nothing overlaps."""
        del op
        return ""

    def launches(self, op: Op) -> int:
        """One kernel an op, four for attention."""
        return ATTENTION_KERNELS if isinstance(op, Attention) else 1

    def stage(self, op: Op) -> Work:
        """As fused, with all that it reads and makes through HBM at the same time."""
        stage, traffic, hbm = super().stage(op), op.cost().traffic, self.figures.hbm
        made = sum(read + written for role, read, written, _ in traffic if role == "activations")
        if isinstance(op, Attention):
            made += _SCORE_PASSES * op.totals.pairs * op.heads * op.act_bytes
        kept = sum(r + w for role, r, w, space in traffic if role != "activations" and space == DEVICE)
        return stage.beside(Work.of("dram", (made + kept) / hbm.speed, made * hbm.joules))


MACHINE = Sn40lUnfused
