"""OliVe: a systolic array of 4-bit elements that decodes outlier-victim pairs at its edges.

Source: Guo et al., "OliVe: Accelerating Large Language Models via Hardware-friendly Outlier-Victim Pair
Quantization" (arXiv:2304.07493). A decoder at each row and column turns a pair into an exponent and an
integer for each number; an element multiplies the integers, adds the exponents and shifts the product into
its sum. Four elements make one of 8 bits.

The paper's tables could not be read: sizes are those of the simulator in its own repository (that of ANT, of
the same authors, with 4-bit elements of the same number), area and energy are counted from gates.
"""

from __future__ import annotations

from typing import ClassVar

from twofold.devices.array_figures import FAMILY_SOURCES, ArrayFigures
from twofold.devices.machines.int8_array import IntegerArray
from twofold.devices.parts.pe import Circuit
from twofold.devices.parts.systolic import Product
from twofold.devices.parts.work import Work
from twofold.devices.pe_array import FLOATS, Mode, operand_bits
from twofold.ops import Linear
from twofold.ops.base import Precision

_BITS = 4
_EXPONENT_BITS = 4
_PLACES = 11
"""By how many places a product is shifted at most, and none: an outlier's exponent is at most 5."""
_DECODER_GATES = 40

ANT_SIMULATOR = "github.com/clevercool/ANT-Quantization @bc84067, ant_simulator/conf_ant.ini: "
SOURCES = FAMILY_SOURCES | {
    "node": "arXiv:2304.07493: 22 nm",
    "rows, columns": ANT_SIMULATOR + "32 x 32 elements of 8 bits, each four of 4 bits",
    "hertz": ANT_SIMULATOR + "500 MHz",
    "buffers": ANT_SIMULATOR + "128, 256 and 128 KiB",
    "dram.bandwidth": ANT_SIMULATOR + "1,024 bits in a cycle of 500 MHz",
}


class Olive(IntegerArray):
    """The modelled machine."""

    name = "olive"
    title = "OliVe: 4-bit outlier-victim pairs on a systolic array"
    source = "OliVe, arXiv:2304.07493; sizes of the simulator in its repository"
    sources = SOURCES
    bits: ClassVar[tuple[int, int]] = (_BITS, _BITS)
    usual = ArrayFigures(node=22, rows=64, columns=64, lanes=64)

    @property
    def element(self) -> Circuit:
        """Multiplier of integers, adder of exponents, shifter, adder of the sum, operands and sum."""
        logic = self.logic
        product = logic.multiplier(_BITS, _BITS) + logic.adder(_EXPONENT_BITS + 1)
        shifted = logic.shifter(2 * _BITS + _PLACES - 1, _PLACES)
        operands = 2 * (_BITS + _EXPONENT_BITS)
        return product + shifted + logic.adder(32) + logic.register(operands + 32)

    @property
    def decoder(self) -> Circuit:
        """Of one pair; its gates are an assumption, a hundredth of the array."""
        return self.logic.gates(_DECODER_GATES)

    def mode(self, op: Linear) -> Mode | None:
        """See `PeArray.mode`: pairs are what its decoders are for."""
        return None if op.compute in FLOATS else self.integers(op)

    def integers(self, op: Linear) -> Mode:
        """Operands of more than 4 bits on four elements."""
        f = self.figures
        weights, inputs = operand_bits(op)
        if max(weights, inputs) <= _BITS:
            return Mode(f.rows, f.columns, 1, weights, inputs)
        return Mode(f.rows // 2, f.columns // 2, 4, weights, inputs)

    def rates(self) -> dict[Precision, float]:
        """Products of 8 bits at a quarter of the rate of 4 bits."""
        f = self.figures
        rate = 2 * f.rows * f.columns * f.hertz
        return {"int4": rate, "int8": rate / 4, "int1": rate * _BITS * _BITS}

    def linear(self, op: Linear) -> Work:
        """With what the decoders spend on each pair that enters the array."""
        work = super().linear(op)
        if (mode := self.mode(op)) is None:
            return work
        run = self._array(mode).run(Product(op.tokens, op.depth, op.out_features // op.groups, op.groups))
        pairs = (run.read_a + run.read_b) / 2
        return work.beside(Work(0.0, {"array": pairs * self.decoder.joules}))


MACHINE = Olive
