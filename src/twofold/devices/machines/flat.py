"""FLAT: attention fused row by row, its softmax on the 1D array in three passes.

Source: Kao et al., "FLAT: An Optimized Dataflow for Mitigating Attention Bottlenecks" (arXiv:2107.06419), as
FuseMax (arXiv:2406.10491, section VI-A) corrects and completes it: scores of a block of queries stay in the
buffer from the first product to the second, as far as they fit; 256 lanes do the softmax.

A row of scores is passed three times (`einsum_passes`), so that all of it is kept: what a block of as many
queries as the array is wide needs beyond the buffer goes through the DRAM, and for very long rows nothing
is kept. The two arrays and the DRAM work at the same time on different rows.
"""

from __future__ import annotations

from functools import cache

from twofold.devices.dense_array import ELEMENT
from twofold.devices.parts.einsum_passes import THREE_PASS, accesses, passes
from twofold.devices.parts.work import NOTHING, Work
from twofold.devices.spatial_array import Scores, SpatialArray
from twofold.ops import Attention

SOFTMAX_CYCLES = 4
"""Of a lane for a score: maximum, exponential of the difference, sum, quotient; those that take longer are
pipelined."""


class Flat(SpatialArray):
    """The modelled machine."""

    name = "flat"
    title = "FLAT: fused attention on a 256 x 256 spatial array"
    source = "FLAT, arXiv:2107.06419, as completed by FuseMax, arXiv:2406.10491"

    def attention_work(self, op: Attention, alone: Scores | None, many: Scores | None) -> Work:
        """Products on the 2D array, softmax on the 1D array, both fed from the DRAM, at the same time."""
        work = NOTHING
        for scores in (alone, many):
            if scores is not None:
                work = work.then(self._fused(op, scores))
        return work

    def _fused(self, op: Attention, scores: Scores) -> Work:
        traffic = self.stream(scores, self._traffic(op, scores))
        return self.products(op, scores).beside(self.softmax(scores)).beside(traffic)

    def products(self, op: Attention, scores: Scores) -> Work:
        """Both products, tile by tile."""
        f, width = self.figures, op.head_dim + op.v_dim
        joules = scores.num * width * (f.joules.mac + f.joules.registers)
        # Of a tile: queries, keys and values once, results read and written.
        each = (f.columns * op.head_dim + f.rows * width + 2 * f.columns * op.v_dim) * ELEMENT
        return self.array(scores.tiles * width, joules).beside(self.buffer(scores.tiles * each))

    def softmax(self, scores: Scores) -> Work:
        """Of all scores; every Einsum of the cascade goes through the buffer."""
        f, j = self.figures, self.figures.joules
        each = j.max + j.add + j.exp + j.add + j.divide + SOFTMAX_CYCLES * j.lane_registers
        cycles = SOFTMAX_CYCLES * scores.num / f.lanes
        through = scores.num * _accesses() * ELEMENT
        return self.vector(cycles, scores.num * each).beside(self.buffer(through))

    def _traffic(self, op: Attention, scores: Scores) -> float:
        """Bytes to and from the DRAM: keys and values for every block of queries whose scores are kept, and
        scores that are not."""
        f = self.figures
        row = scores.keys * ELEMENT
        tile = (f.columns * op.head_dim + f.rows * scores.width) * ELEMENT
        room = max(1.0, f.buffer_bytes - tile)
        block = min(scores.rows, max(f.columns, room // row))
        spilled = max(0.0, 1 - room / (block * row))
        kept = scores.read(scores.rows / block) + spilled * self.unkept(scores, room)
        # Without keeping any, keys and values are read for as many queries as the buffer holds.
        queries = scores.rows * op.head_dim * ELEMENT / room
        return min(kept, scores.read(max(1.0, queries)) + self.unkept(scores, room))

    def unkept(self, scores: Scores, room: float) -> float:
        """Bytes of all scores written and read before and after the softmax; a row that the buffer does not
        hold is read again for every further pass."""
        times = 4 if scores.keys * ELEMENT <= room else 4 + 2 * (passes(THREE_PASS, "m") - 1)
        return times * scores.num * ELEMENT


@cache
def _accesses() -> int:
    return accesses(THREE_PASS, "m")


MACHINE = Flat
