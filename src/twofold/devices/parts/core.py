"""A small core with a memory of its own that multiplies what it fetches: one of many on a mesh.

It executes vector instructions, whose operands are described by registers: where a vector lies, and how long
it is. Instructions start some cycles apart, and descriptions take some, which short vectors feel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.devices.parts.energy import Process

ELEMENT = 2
"""Bytes of a 16-bit number."""
PER_MAC = 3 * ELEMENT
"""Bytes that a multiply-accumulate reads and writes: two operands and the sum."""
_OPERANDS = 3  # of an instruction: two sources and a result
_LOOP = _OPERANDS + 2  # descriptions of a loop of them: two are moved on to its next turn


@dataclass(frozen=True, slots=True)
class Core:
    """nbytes: of its memory; operand_bytes: of each of the two operands that it fetches in a cycle, which it
    multiplies as numbers of 16 bits; apart: cycles from the start of a vector instruction to that of the
    next, at least; describe: to load or to change the description of a vector; process: for its energies."""

    nbytes: int
    operand_bytes: int
    apart: int = 0
    describe: int = 0
    process: Process = field(default_factory=lambda: Process(7))

    def __post_init__(self) -> None:
        if self.nbytes < 1 or self.operand_bytes < ELEMENT:
            raise ValueError(
                f"core: a memory and operands of {ELEMENT} bytes at least are needed, not {self.nbytes} and "
                f"{self.operand_bytes} bytes"
            )
        if min(self.apart, self.describe) < 0:
            raise ValueError(f"core: cycles must not be negative, not {self.apart}, {self.describe}")

    @property
    def lanes(self) -> int:
        """Multiply-accumulates per cycle."""
        return self.operand_bytes // ELEMENT

    @property
    def flop_joules(self) -> float:
        """Of a FLOP, without memory."""
        return self.process.mac("fp16", "fp16") / 2

    @property
    def byte_joules(self) -> float:
        """Of a byte read from or written to its memory."""
        return self.process.sram_byte(self.nbytes)

    @property
    def mac_joules(self) -> float:
        """Of a multiply-accumulate with its reads and its write."""
        return 2 * self.flop_joules + PER_MAC * self.byte_joules

    def cycles(self, operations: int) -> int:
        """Of so many operations, without the instructions that they belong to."""
        return -(-operations // self.lanes)

    def mapped(self, instructions: int, length: int) -> int:
        """Cycles of vector instructions over `length` elements each, whose vectors are described once and
        followed by themselves: a loop over the rows of a tile."""
        return instructions * max(self.apart, self.cycles(length)) + _LOOP * self.describe

    def vectors(self, instructions: int, length: int) -> int:
        """Cycles of vector instructions over `length` elements each that all have vectors of their own."""
        return instructions * (max(self.apart, self.cycles(length)) + _OPERANDS * self.describe)
