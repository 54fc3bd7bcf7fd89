"""A plain systolic array of 16-bit floats: the reference of quantisation accelerators.

Each processing element multiplies two numbers of fp16 (bf16 costs the same here) and adds to a sum. Weights
that are stored in fewer bits are widened by the lanes before the product. Attention is done on the array,
too. Size, clock, buffers and DRAM are those of MixPE's simulator for FP16 (arXiv:2411.16158).
"""

from __future__ import annotations

from twofold.devices.array_figures import FAMILY_SOURCES, SIMULATOR, ArrayFigures
from twofold.devices.parts.pe import Circuit
from twofold.devices.parts.work import Work
from twofold.devices.pe_array import FLOATS, Mode, PeArray, beside_product
from twofold.ops import Attention, Linear
from twofold.ops.base import Precision

SOURCES = FAMILY_SOURCES | {
    "node": SIMULATOR + "bitfusion/src/simulator/simulator.py: 28 nm",
    "rows, columns": SIMULATOR + "conf_float.ini: 32 x 28",
}


class Fp16Array(PeArray):
    """The modelled machine."""

    name = "fp16-array"
    title = "A systolic array of 16-bit floats"
    source = "the FP16 baseline of MixPE, arXiv:2411.16158, by its own simulator"
    sources = SOURCES
    usual = ArrayFigures(node=28, rows=32, columns=28, lanes=28)

    @property
    def element(self) -> Circuit:
        """A multiplier, an adder, both operands and the sum."""
        logic = self.logic
        units = logic.float_multiplier("fp16") + logic.float_adder("fp16")
        return units + logic.register(16 + 16 + 32)

    def mode(self, op: Linear) -> Mode:
        """Everything in 16 bits."""
        f = self.figures
        return Mode(f.rows, f.columns, 1, 16, 16)

    def rates(self) -> dict[Precision, float]:
        """Every element multiplies in every cycle."""
        f = self.figures
        return dict.fromkeys(FLOATS, 2 * f.rows * f.columns * f.hertz)

    def attention(self, op: Attention) -> Work:
        """On the array: a query that is alone in its sequence fills as many rows as heads share its keys. The
        softmax runs on the lanes beside it."""
        self._check_attention(op)
        f, t = self.figures, op.totals
        width = op.head_dim + op.v_dim
        rounds = -(-(op.heads // op.kv_heads) // f.rows)
        alone = t.single_keys * op.kv_heads * rounds * width / f.columns
        tiles = (t.pairs - t.single_keys) * op.heads * width / (f.rows * f.columns)
        joules = t.pairs * op.heads * width * self.element.joules
        array = Work.of("array", (alone + tiles) / f.hertz, joules)
        return self._cache_read(op).beside(array).beside(self.lanes.run(beside_product(op)))


MACHINE = Fp16Array
