"""A spatial array without fusion: scores, softmax and the second product one after the other, each from and
to the DRAM.

The unfused baseline of FuseMax (arXiv:2406.10491, section VI-A): the machine of FLAT, its phases in a row.
"""

from __future__ import annotations

from twofold.devices.dense_array import ELEMENT
from twofold.devices.machines.flat import Flat
from twofold.devices.parts.work import Work
from twofold.devices.spatial_array import Scores
from twofold.ops import Attention


class UnfusedArray(Flat):
    """The modelled machine."""

    name = "unfused-array"
    title = "Unfused attention on a 256 x 256 spatial array"
    source = "the unfused baseline of FuseMax, arXiv:2406.10491"

    def _fused(self, op: Attention, scores: Scores) -> Work:
        """Three phases, each bound by its array or by the DRAM."""
        scored = op.head_dim / scores.width
        products, stored = self.products(op, scores), scores.read(1)
        one_way = scores.num * ELEMENT
        softmax = self.unkept(scores, self.figures.buffer_bytes) - 2 * one_way
        return (
            (products * scored)
            .beside(self.stream(scores, stored * scored + one_way))
            .then(self.softmax(scores).beside(self.dram(softmax)))
            .then((products * (1 - scored)).beside(self.dram(stored * (1 - scored) + one_way)))
        )


MACHINE = UnfusedArray
