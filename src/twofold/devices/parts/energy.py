"""Published energies and areas of single operations and accesses, carried to other process nodes.

At 45 nm and 0.9 V: Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure
1.1.9; areas as Dally's tutorials tabulate them beside the same energies. They are of the unit alone:
registers, wires and control come on top where a machine has figures for them. To other nodes: Stillmaker,
Baas, "Scaling equations for the accurate prediction of CMOS device performance from 180 nm to 7 nm",
Integration 58 (2017), at the voltages in VOLTS (assumed to be nominal).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Literal

Number = Literal["int4", "int8", "int16", "int32", "fp16", "fp32"]

ADD_PJ: dict[Number, float] = {
    "int4": 0.015,
    "int8": 0.03,
    "int16": 0.05,
    "int32": 0.1,
    "fp16": 0.4,
    "fp32": 0.9,
}
MUL_PJ: dict[Number, float] = {
    "int4": 0.05,
    "int8": 0.2,
    "int16": 0.8,
    "int32": 3.1,
    "fp16": 1.1,
    "fp32": 3.7,
}
ADD_UM2: dict[Number, float] = {"int4": 18, "int8": 36, "int16": 67, "int32": 137, "fp16": 1360, "fp32": 4184}
MUL_UM2: dict[Number, float] = {
    "int4": 70,
    "int8": 282,
    "int16": 1128,
    "int32": 3495,
    "fp16": 1640,
    "fp32": 7700,
}
"""By kind of number. Published: int8, int32, fp16, fp32, and the addition of int16; the others are scaled
from int8, adders by their width, multipliers by its square."""

SRAM_PJ: dict[int, float] = {8 << 10: 10.0, 32 << 10: 20.0, 1 << 20: 100.0}
"""Picojoules of reading 64 bits, by bytes of the memory."""

NODES = (130, 90, 65, 45, 32, 20, 16, 14, 10, 7)
VOLTS = (1.2, 1.1, 1.1, 0.9, 0.9, 0.85, 0.8, 0.8, 0.75, 0.7)
_ENERGY = (
    (7.171, -6.709, 2.904),
    (4.762, -4.781, 2.092),
    (3.755, -4.398, 1.975),
    (1.103, -0.362, 0.2767),
    (0.9559, -0.7823, 0.471),
    (0.373, -0.1582, 0.04104),
    (0.2958, -0.1241, 0.03024),
    (0.2363, -0.09675, 0.02239),
    (0.2068, -0.09311, 0.02375),
    (0.1776, -0.09097, 0.02447),
)
"""By node: the energy of switching is a V^2 + b V + c."""
_AREA = (6.4, 2.8, 1.5, 1.0, 0.46, 0.21, 0.19, 0.17, 0.1, 0.059)
"""Areas relative to 45 nm."""


@dataclass(frozen=True, slots=True)
class Process:
    """A CMOS process: `node` in nanometres, 7 to 130; nodes between known ones are interpolated."""

    node: float

    def __post_init__(self) -> None:
        if not NODES[-1] <= self.node <= NODES[0]:
            raise ValueError(f"process node {self.node} nm: known from {NODES[-1]} to {NODES[0]} nm")

    @property
    def energy_scale(self) -> float:
        """Energy of an operation over that at 45 nm."""
        values = [a * v * v + b * v + c for (a, b, c), v in zip(_ENERGY, VOLTS, strict=True)]
        return _at(self.node, values) / values[NODES.index(45)]

    @property
    def area_scale(self) -> float:
        """Area of a unit over that at 45 nm."""
        return _at(self.node, _AREA)

    def add(self, number: Number) -> float:
        """Joules of an addition."""
        return ADD_PJ[number] * 1e-12 * self.energy_scale

    def mul(self, number: Number) -> float:
        """Joules of a multiplication."""
        return MUL_PJ[number] * 1e-12 * self.energy_scale

    def mac(self, number: Number, total: Number) -> float:
        """Joules of multiplying two numbers and adding the product to a sum of kind `total`."""
        return self.mul(number) + self.add(total)

    def adder_area(self, number: Number) -> float:
        """Square millimetres."""
        return ADD_UM2[number] * 1e-6 * self.area_scale

    def multiplier_area(self, number: Number) -> float:
        """Square millimetres."""
        return MUL_UM2[number] * 1e-6 * self.area_scale

    def sram_byte(self, capacity: int) -> float:
        """Joules of reading or writing a byte of a memory of `capacity` bytes, between and beyond the
        published sizes along straight lines over the logarithm of the size (never below the smallest)."""
        sizes, joules = list(SRAM_PJ), list(SRAM_PJ.values())
        at = min(max(1, bisect_left(sizes, capacity)), len(sizes) - 1)
        share = log2(capacity / sizes[at - 1]) / log2(sizes[at] / sizes[at - 1])
        each = joules[at - 1] + (joules[at] - joules[at - 1]) * share
        return max(each, joules[0] / 2) * 1e-12 / 8 * self.energy_scale


def _at(node: float, values: Sequence[float]) -> float:
    """The value at `node`, between two known nodes along a straight line."""
    after = next(i for i, known in enumerate(NODES) if known <= node)
    if NODES[after] == node:
        return values[after]
    high, low = NODES[after - 1], NODES[after]
    share = (node - low) / (high - low)
    return values[after] + (values[after - 1] - values[after]) * share
