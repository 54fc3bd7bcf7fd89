"""An on-chip memory: what moves through it takes its bandwidth and energy."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.devices.parts.work import Work


@dataclass(frozen=True, slots=True)
class Sram:
    """nbytes: capacity; bandwidth: bytes/s, reads and writes together; joules: of a byte moved."""

    nbytes: int
    bandwidth: float
    joules: float

    def __post_init__(self) -> None:
        if self.nbytes < 1 or not self.bandwidth > 0 or self.joules < 0:
            raise ValueError(
                f"SRAM: capacity and bandwidth must be positive and joules not negative, not {self.nbytes}, "
                f"{self.bandwidth}, {self.joules}"
            )

    def move(self, nbytes: float) -> Work:
        """Read or write `nbytes` in all."""
        return Work.of("sram", nbytes / self.bandwidth, nbytes * self.joules)
