"""FuseMax: attention in one pass on a spatial array whose 2D part shares the work of the softmax.

Source: Nayak et al., "FuseMax: Leveraging Extended Einsums to Optimize Attention Accelerator Design"
(arXiv:2406.10491, MICRO 2024). Keys are cut into tiles as tall as the array, queries into tiles as wide. The
running maximum of the 1-pass cascade (`einsum_passes`) lets a tile of scores be used up as soon as it is
made: nothing that grows with the sequence is kept. Products of tiles of scores, their local maxima,
exponentials (six multiply-accumulates each) and sums are made on the 2D array; corrections of the running
maximum, denominator and numerator on the 1D array, at the same time and of other tiles. The division is left
for the end, once for each result.

Two things differ from the source. It models prompts alone: here a query that is alone in its sequence shares
tiles with the heads that share its keys, and leaves the other columns idle. And the array fills and drains
once for an op.
"""

from __future__ import annotations

from dataclasses import replace

from twofold.devices.dense_array import ELEMENT
from twofold.devices.parts.work import Work
from twofold.devices.spatial_array import (
    ARTIFACT,
    PJ,
    SOURCES,
    Joules,
    Scores,
    SpatialArray,
    SpatialFigures,
    ceil,
)
from twofold.ops import Attention

EXP_MACS = 6
"""Multiply-accumulates of an exponential, one after the other: arXiv:2406.10491, section V."""

REGISTERS = 0.653431 * PJ + 0.56957 * PJ
FIGURES = SpatialFigures(
    buffer_bytes=16 << 20, joules=replace(Joules(), registers=REGISTERS, lane_registers=REGISTERS)
)


class FuseMax(SpatialArray):
    """The modelled machine."""

    name = "fusemax"
    title = "FuseMax: one-pass attention on a 256 x 256 spatial array"
    source = "FuseMax, arXiv:2406.10491"
    sources = SOURCES | {
        "buffer_bytes": ARTIFACT + "src/accel/proposal.py: 16 MiB, for the area of FLAT",
        "joules.registers, joules.lane_registers": ARTIFACT
        + "inputs/yamls/area_energy/outputs-{1d,2d}-fusemax/ERT.yaml; assumption: one read and one write for "
        "each operation",
    }

    def __init__(self, figures: SpatialFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or FIGURES, tp=tp)

    def attention_work(self, op: Attention, alone: Scores | None, many: Scores | None) -> Work:
        """Both arrays and the DRAM at the same time."""
        f = self.figures
        work = self.array(f.rows + f.columns, 0.0)
        for scores in (alone, many):
            if scores is not None:
                work = work.then(self._pass(op, scores))
        return work

    def _pass(self, op: Attention, scores: Scores) -> Work:
        f = self.figures
        compute = self.array(self._cycles(op, scores), self._joules_2d(op, scores))
        lanes = self.vector(self._lane_cycles(op, scores), self._joules_1d(op, scores))
        results = scores.queries * op.v_dim * ELEMENT
        moved = self.buffer(scores.tiles * self._tile_bytes(op) + results)
        # Queries whose running numerators fit beside a tile of keys and values share a reading of those.
        query = (scores.width + 2) * ELEMENT
        room = f.buffer_bytes - f.rows * scores.width * ELEMENT
        block = max(1, int(room // (query * f.columns))) * f.columns
        traffic = self.stream(scores, scores.read(ceil(scores.rows / block)))
        return compute.beside(lanes).beside(moved).beside(traffic)

    def _cycles(self, op: Attention, scores: Scores) -> float:
        """Of an epoch for each tile: scores and local maxima beside the last tile's sums; the running
        maximum; exponentials beside corrections; the second product beside the correction of its sums."""
        lane = self._lane_share()
        tiles = scores.tiles
        first = max(
            tiles * (op.head_dim + 1), tiles * (1 + op.v_dim) * lane + scores.blocks * op.v_dim * lane
        )
        exponentials = max(1 + EXP_MACS + 1, (1 + EXP_MACS + 1) * lane)
        return first + tiles * (lane + exponentials + op.v_dim * max(1.0, lane))

    def _lane_cycles(self, op: Attention, scores: Scores) -> float:
        """Cycles in which the 1D array works."""
        each = 1 + (1 + EXP_MACS + 1) + op.v_dim + 1 + op.v_dim
        return (scores.tiles * each + scores.blocks * op.v_dim) * self._lane_share()

    def _lane_share(self) -> float:
        """Cycles of the 1D array for one operation on each column of a tile."""
        return self.figures.columns / self.figures.lanes

    def _joules_2d(self, op: Attention, scores: Scores) -> float:
        """Of all scores: products, local maximum, difference, exponential, sum."""
        j = self.figures.joules
        macs = scores.width + EXP_MACS
        return scores.num * (macs * j.mac + j.max + 2 * j.add + (macs + 3) * j.registers)

    def _joules_1d(self, op: Attention, scores: Scores) -> float:
        """Of all queries for every tile of keys, and of their quotients."""
        j, width = self.figures.joules, op.v_dim
        steps = scores.queries * ceil(scores.keys / self.figures.rows)
        macs, adds = EXP_MACS + 1 + width, 2 + width
        each = j.max + macs * j.mac + adds * j.add + (1 + macs + adds) * j.lane_registers
        return steps * each + scores.queries * width * (j.divide + j.lane_registers)

    def _tile_bytes(self, op: Attention) -> int:
        """Through the buffer for a tile: queries, keys and values, numerators and two running numbers."""
        f = self.figures
        running = 2 * (op.v_dim + 2) * f.columns
        return (f.columns * op.head_dim + f.rows * (op.head_dim + op.v_dim) + running) * ELEMENT


MACHINE = FuseMax
