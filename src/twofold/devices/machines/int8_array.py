"""A plain systolic array of 8-bit integers: what quantisation accelerators are compared with.

Each processing element multiplies two 8-bit integers and adds to a 32-bit sum; operands of fewer bits take
its time and its energy all the same. Size, clock, buffers and DRAM are those of MixPE's simulator for INT8
(arXiv:2411.16158).
"""

from __future__ import annotations

from typing import ClassVar

from twofold.devices.array_figures import FAMILY_SOURCES, SIMULATOR, ArrayFigures
from twofold.devices.parts.pe import Circuit
from twofold.devices.pe_array import FLOATS, Mode, PeArray, operand_bits
from twofold.ops import Linear
from twofold.ops.base import Precision

SOURCES = FAMILY_SOURCES | {
    "node": SIMULATOR + "bitfusion/src/simulator/simulator.py: 28 nm",
    "rows, columns": SIMULATOR + "conf_int.ini: 32 x 32",
}


class IntegerArray(PeArray):
    """An array of integers that are codes of values; floats go to the lanes. bits: of either operand that
    one processing element takes in a cycle."""

    precisions: ClassVar[tuple[Precision, ...]] = (*FLOATS, "int8", "int4", "int1")
    bits: ClassVar[tuple[int, int]] = (8, 8)

    def mode(self, op: Linear) -> Mode | None:
        """See `PeArray.mode`."""
        if op.compute in FLOATS:
            return None
        if op.format.startswith("ovp"):
            raise self.refusal(
                op, "it has no decoders of outlier-victim pairs; move the plan to the machine olive"
            )
        return self.integers(op)

    def integers(self, op: Linear) -> Mode:
        """How the array multiplies integers."""
        f = self.figures
        return Mode(f.rows, f.columns, 1, *operand_bits(op))

    def rates(self) -> dict[Precision, float]:
        """Every element multiplies in every cycle."""
        f = self.figures
        rate = 2 * f.rows * f.columns * f.hertz
        return {"int8": rate, "int4": rate, "int1": rate * self.bits[0] * self.bits[1]}


class Int8Array(IntegerArray):
    """The modelled machine."""

    name = "int8-array"
    title = "A systolic array of 8-bit integers"
    source = "the INT8 baseline of MixPE, arXiv:2411.16158, by its own simulator"
    sources = SOURCES
    usual = ArrayFigures(node=28, rows=32, columns=32, lanes=32)

    @property
    def element(self) -> Circuit:
        """A multiplier, an adder, both operands and the sum."""
        logic = self.logic
        return logic.multiplier(8, 8) + logic.adder(32) + logic.register(8 + 8 + 32)


MACHINE = Int8Array
