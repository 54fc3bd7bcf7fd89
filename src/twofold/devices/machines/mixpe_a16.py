"""MixPE for activations of 16 bits: fp16 times integers of 4 bits, by shifting and adding.

Source: arXiv:2411.16158 and its simulator, as `mixpe`. The significand of an activation is shifted and added
by the four bits of a weight; sums are floats, scaled once a group on the lanes. So weights that are stored in
up to 4 bits and multiplied in 16 (as GPTQ leaves them) are never widened. Others go to the lanes.
"""

from __future__ import annotations

from twofold.devices.array_figures import SIMULATOR, ArrayFigures
from twofold.devices.machines.mixpe import SOURCES as MIXPE_SOURCES
from twofold.devices.machines.mixpe import WEIGHT_BITS, shift_add
from twofold.devices.parts.pe import Circuit
from twofold.devices.pe_array import FLOATS, Mode, PeArray, operand_bits, rescaling
from twofold.ops import Linear
from twofold.ops.base import Precision

_SIGNIFICAND_BITS, _EXPONENT_BITS = 11, 5

SOURCES = MIXPE_SOURCES | {"rows, columns": SIMULATOR + "conf_mixfloat.ini: 32 x 32"}


class MixPeA16(PeArray):
    """The modelled machine."""

    name = "mixpe-a16"
    title = "MixPE: 4-bit weights times 16-bit activations by shifting and adding"
    source = "MixPE, arXiv:2411.16158, by its own simulator"
    sources = SOURCES
    usual = ArrayFigures(node=28, rows=32, columns=32, lanes=32)

    @property
    def element(self) -> Circuit:
        """Shifted significands, added up; the exponent's correction; the float adder of the sum."""
        logic = self.logic
        product = shift_add(logic, _SIGNIFICAND_BITS) + logic.adder(_EXPONENT_BITS)
        return product + logic.float_adder("fp16") + logic.register(16 + WEIGHT_BITS + 32)

    def mode(self, op: Linear) -> Mode | None:
        """Weights of up to four bits."""
        f = self.figures
        weights, _ = operand_bits(op)
        return Mode(f.rows, f.columns, 1, weights, 16) if weights <= WEIGHT_BITS else None

    def around(self, op: Linear) -> int:
        """Of weights in few bits the scaling of their groups' sums, instead of that of every weight."""
        return super().around(op) if self.mode(op) is None else rescaling(op)

    def rates(self) -> dict[Precision, float]:
        """Every element multiplies in every cycle."""
        f = self.figures
        return dict.fromkeys(FLOATS, 2 * f.rows * f.columns * f.hertz)


MACHINE = MixPeA16
