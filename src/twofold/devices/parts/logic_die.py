"""Units beside a memory that read several of its banks at once: on the logic die of HBM, over through-silicon
vias of their own, or next to the banks.

Banks that share a way to the pins can be read one at a time, or one of each bank group. With ways of their
own a bundle of them is opened, read and closed together; another bundle opens meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from twofold.devices.parts.dram import Dram
from twofold.devices.parts.work import Work


@dataclass(frozen=True, slots=True)
class LogicDie:
    """Units of all stacks of a device.

    stacks: among which work is dealt out; bundle: banks of a channel that are read at once; macs:
    multipliers and adders of a stack, one operation each per cycle of `hertz`; mac_joules: of a
    multiply-accumulate; read_joules: of a byte from the cells to the units, without the pins; buffer_joules:
    of a byte between units and their buffers; part: what the work is of.
    """

    stacks: int
    bundle: int
    macs: int
    hertz: float
    mac_joules: float
    read_joules: float
    buffer_joules: float
    part: str = "logic-die"

    def __post_init__(self) -> None:
        if min(self.stacks, self.bundle, self.macs) < 1 or not self.hertz > 0:
            raise ValueError(
                f"logic die: stacks, bundle, macs and hertz must be positive, not {self.stacks}, "
                f"{self.bundle}, {self.macs}, {self.hertz}"
            )

    @property
    def macs_per_second(self) -> float:
        """Of all stacks, with every unit busy."""
        return self.stacks * self.macs * self.hertz

    def view(self, pins: Dram) -> Dram:
        """The memory behind `pins` as the units see it: bundles for banks, which open as fast as the channel
        activates rows; ValueError where banks do not make whole bundles."""
        s, t, e = pins.shape, pins.timing, pins.energy
        if s.banks % self.bundle:
            raise ValueError(f"logic die: {s.banks} banks of a channel are no bundles of {self.bundle}")
        opening = self.bundle * max(t.rrd, t.faw / 4)
        wide = replace(
            s,
            banks=s.banks // self.bundle,
            row_bytes=s.row_bytes * self.bundle,
            column_bytes=s.column_bytes * self.bundle,
        )
        timing = replace(t, ccd=t.ccd_mac, rrd=opening, faw=4 * opening)
        energy = replace(
            e,
            activate=e.activate * self.bundle,
            read=self.read_joules * wide.column_bytes,
            write=self.read_joules * wide.column_bytes,
            bus=0.0,
        )
        return Dram(wide, timing, energy)

    def multiply(self, view: Dram, nbytes: float, macs: float, moved: float) -> Work:
        """`nbytes` of a matrix read through `view` (of this die) and multiplied in `macs` operations while
        they come; `moved`: bytes of operands and results between units and buffers."""
        read = view.stream(nbytes)
        joules = macs * self.mac_joules + moved * self.buffer_joules
        return read.beside(Work.of(self.part, macs / self.macs_per_second, joules))
