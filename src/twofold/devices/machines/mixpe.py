"""MixPE: integers of 4 bits times 8, by shifting and adding; what a group of weights shares is applied to its
sum.

Source: Zhang et al., "MixPE: Quantization and Hardware Co-design for Efficient LLM Inference"
(arXiv:2411.16158) and its simulator. Scale and zero point are shared by a group of weights, so that sums of
integers are made first and scaled once a group, on the lanes, one for each column. A product of a 4-bit
weight is four shifted activations, added up: no multiplier. Weights of 8 bits take two elements.

The paper's text beyond its abstract could not be read; sizes are those of the simulator, which counts an
element of 4 by 8 bits as four (it splits the activations, too): here it is one.
"""

from __future__ import annotations

from typing import ClassVar

from twofold.devices.array_figures import FAMILY_SOURCES, SIMULATOR, ArrayFigures
from twofold.devices.machines.int8_array import IntegerArray
from twofold.devices.parts.pe import Circuit, Logic
from twofold.devices.pe_array import Mode, operand_bits
from twofold.ops import Linear

WEIGHT_BITS, INPUT_BITS = 4, 8
SUM_BITS = 20
"""Of a group's sum: a product of 12 bits, 128 of them, and a sign."""

SOURCES = FAMILY_SOURCES | {
    "node": SIMULATOR + "bitfusion/src/simulator/simulator.py: 28 nm",
    "rows, columns": SIMULATOR + "conf_mixint.ini: 64 x 64",
}


class MixPe(IntegerArray):
    """The modelled machine."""

    name = "mixpe"
    title = "MixPE: 4-bit weights times 8-bit activations by shifting and adding"
    source = "MixPE, arXiv:2411.16158, by its own simulator"
    sources = SOURCES
    bits: ClassVar[tuple[int, int]] = (WEIGHT_BITS, INPUT_BITS)
    usual = ArrayFigures(node=28, rows=64, columns=64, lanes=64)

    @property
    def element(self) -> Circuit:
        """A gate for each pair of bits, adders of the four shifted rows, that of the sum, and registers."""
        return (
            shift_add(self.logic, INPUT_BITS)
            + self.logic.adder(SUM_BITS)
            + self.logic.register(WEIGHT_BITS + INPUT_BITS + SUM_BITS)
        )

    def integers(self, op: Linear) -> Mode:
        """Weights of more than four bits in two halves, on two elements."""
        f = self.figures
        weights, inputs = operand_bits(op)
        if weights <= WEIGHT_BITS:
            return Mode(f.rows, f.columns, 1, weights, inputs)
        return Mode(f.rows, f.columns // 2, 2, weights, inputs)


def shift_add(logic: Logic, bits: int) -> Circuit:
    """The product of a number of `bits` and a 4-bit weight: its rows, each the number or nothing, and the
    adders of these, each a bit longer than the one before."""
    rows = logic.gates(WEIGHT_BITS * bits)
    adders = [logic.adder(bits + i) for i in range(1, WEIGHT_BITS)]
    return sum(adders, rows)


MACHINE = MixPe
