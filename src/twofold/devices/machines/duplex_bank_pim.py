"""The GPU of Duplex with processing units in every bank of its HBM: a baseline of Duplex.

Source: Yun et al., "Duplex" (MICRO 2024, arXiv:2409.01141), its Bank-PIM: twice the units of Samsung's
HBM-PIM, sixteen times the bandwidth of the pins and one operation per byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.devices.machines.duplex import PAPER, SIMULATOR, SOURCES, Duplex, DuplexFigures
from twofold.devices.parts.energy import Process
from twofold.devices.parts.logic_die import LogicDie


@dataclass(frozen=True, slots=True)
class BankPimFigures(DuplexFigures):
    """As of Duplex, with units in the banks."""

    logic: LogicDie = field(
        default_factory=lambda: LogicDie(
            stacks=5,
            bundle=32,
            macs=16 * 512,
            hertz=650e6,
            mac_joules=0.46e-12,
            read_joules=0.187e-9 / 32,
            buffer_joules=Process(7).sram_byte(8 << 10),
            part="in-bank",
        )
    )


class BankPim(Duplex):
    """The modelled machine. `figures`: its numbers."""

    name = "duplex-bank-pim"
    title = "The H100 of Duplex with processing units in the banks of its HBM"
    source = "baseline of Duplex, arXiv:2409.01141; MICRO 2024"
    sources = SOURCES | {
        "logic.bundle": PAPER + "16 times the bandwidth: all 32 banks of a pseudo channel at tCCD_L",
        "logic.macs, logic.hertz": PAPER + "a peak of one operation per byte, 10.7 TFLOP/s a stack",
        "logic.read_joules": SIMULATOR + "0.187 nJ for 32 bytes that stay beside their bank",
        "logic.buffer_joules": "assumption: registers and buffers of 8 KiB, as of Logic-PIM's modules",
    }
    more = ("logic.macs", "logic.hertz")

    def __init__(self, figures: BankPimFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or BankPimFigures(), tp=tp)


MACHINE = BankPim
