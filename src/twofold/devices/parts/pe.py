"""Processing elements as circuits: adders, multipliers, shifters and registers, with their area and energy.

Adders and multipliers of integers grow from the published 8-bit ones: an adder with its width, a multiplier
with the product of its operands' widths. Gates and registers have the areas of the Nangate 45 nm open cell
library (NAND2_X1 0.798 um2, DFF_X1 4.522 um2), other gates counted in NAND gates as in textbooks; what they
switch is assumed to go with their area as in the 8-bit adder. Wires, clocks and control come on top in
silicon, for all alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

from twofold.devices.parts.energy import ADD_PJ, ADD_UM2, MUL_PJ, MUL_UM2, Process

Float = Literal["fp16", "fp32"]

NAND_UM2, REGISTER_UM2 = 0.798, 4.522
XOR_NANDS, MUX_NANDS = 4, 4
SRAM_UM2_28 = (55583.718 - 46066.506) / (8 * (8192 - 4096))
"""Square micrometres of one more bit of SRAM at 28 nm: by CACTI, of 8 KiB over 4 KiB (MixPE's simulator,
github.com/yuzhang712/mixpe_simulator @7e0d42c, bitfusion/sram/cacti_sweep.csv). What a memory has beside its
bits is left out."""

_PJ_PER_UM2 = ADD_PJ["int8"] / ADD_UM2["int8"]


@dataclass(frozen=True, slots=True)
class Circuit:
    """area: square millimetres; joules: of one use of all of it."""

    area: float = 0.0
    joules: float = 0.0

    def __add__(self, other: Circuit) -> Circuit:
        """Both side by side, both used."""
        return Circuit(self.area + other.area, self.joules + other.joules)

    def __mul__(self, count: float) -> Circuit:
        """As many of them."""
        return Circuit(self.area * count, self.joules * count)


@dataclass(frozen=True, slots=True)
class Logic:
    """Circuits in one process."""

    process: Process

    def adder(self, bits: int) -> Circuit:
        """Of two integers (a subtractor or a comparator too)."""
        return self._circuit(ADD_UM2["int8"] * bits / 8, ADD_PJ["int8"] * bits / 8)

    def multiplier(self, bits: int, other: int) -> Circuit:
        """Of an integer of `bits` and one of `other`."""
        share = bits * other / 64
        return self._circuit(MUL_UM2["int8"] * share, MUL_PJ["int8"] * share)

    def float_adder(self, number: Float) -> Circuit:
        """Of two floats."""
        return self._circuit(ADD_UM2[number], ADD_PJ[number])

    def float_multiplier(self, number: Float) -> Circuit:
        """Of two floats."""
        return self._circuit(MUL_UM2[number], MUL_PJ[number])

    def register(self, bits: int) -> Circuit:
        """Written once."""
        return self._switched(REGISTER_UM2 * bits)

    def gates(self, count: int) -> Circuit:
        """NAND gates of two inputs."""
        return self._switched(NAND_UM2 * count)

    def xor(self, bits: int) -> Circuit:
        """Of two words."""
        return self.gates(XOR_NANDS * bits)

    def shifter(self, bits: int, positions: int) -> Circuit:
        """A barrel shifter of words of `bits` by 0 … `positions` - 1."""
        return self.gates(MUX_NANDS * bits * ceil(log2(positions)))

    def popcount(self, bits: int) -> Circuit:
        """A tree of full adders that counts ones: about one for each bit."""
        return self.adder(bits)

    def sram_area(self, nbytes: int) -> float:
        """Square millimetres of a memory."""
        at_28 = SRAM_UM2_28 * 8 * nbytes * 1e-6
        return at_28 * self.process.area_scale / Process(28).area_scale

    def _switched(self, um2: float) -> Circuit:
        return self._circuit(um2, um2 * _PJ_PER_UM2)

    def _circuit(self, um2: float, picojoules: float) -> Circuit:
        p = self.process
        return Circuit(um2 * 1e-6 * p.area_scale, picojoules * 1e-12 * p.energy_scale)
