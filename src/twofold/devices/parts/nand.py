"""NAND flash: its shape, its timing and its energy, with what reading pages over the channels takes.

A page is sensed out of its plane's array into a register (tR) and then goes over the bus of its channel,
which all dies of the channel share; a second register lets a plane sense the next page meanwhile. Arithmetic
beside the planes is in `in_flash`; `nand_events` plays the same pages one by one, and the tests hold the
closed forms here and there to it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

SUPPLY_VOLTS, ARRAY_AMPERES, BUS_AMPERES, BUS_BYTES_PER_SECOND = 3.3, 25e-3, 10e-3, 400e6
STANDBY_AMPERES = 30e-6
"""Of a die, the defaults of SimpleSSD (github.com/SimpleSSD/SimpleSSD, fil/config.cc): supply, current of an
array read (ICC1), of a burst on the bus (ICC4) at its 400 MT/s of 8 bits, and of standby
(ISB)."""


@dataclass(frozen=True, slots=True)
class NandShape:
    """Channels, chips per channel, dies per chip, planes per die, bytes of a page without its spare area."""

    channels: int
    chips: int
    dies: int
    planes: int
    page_bytes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"NAND shape: {field.name} must be a positive integer, not {value!r}")

    @property
    def channel_dies(self) -> int:
        """Dies of a channel."""
        return self.chips * self.dies

    @property
    def all_dies(self) -> int:
        """Dies of all channels."""
        return self.channels * self.channel_dies


@dataclass(frozen=True, slots=True)
class NandTiming:
    """read: seconds from a plane's array into its register (tR); transfer: bytes/s of a channel's bus."""

    read: float
    transfer: float

    def __post_init__(self) -> None:
        if not (self.read > 0 and self.transfer > 0):
            raise ValueError(f"NAND timing: must be positive, not {self.read}, {self.transfer}")


@dataclass(frozen=True, slots=True)
class NandEnergy:
    """Joules of sensing a page and of a byte over a channel's bus; watts of a die in standby."""

    read: float
    bus: float
    standby: float

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0.0:
                raise ValueError(
                    f"NAND energy: {field.name} must not be negative, not {getattr(self, field.name)!r}"
                )


def usual_energy(read_seconds: float) -> NandEnergy:
    """The energy of pages that are sensed for so long, at the usual supply and currents (above)."""
    return NandEnergy(
        SUPPLY_VOLTS * ARRAY_AMPERES * read_seconds,
        SUPPLY_VOLTS * BUS_AMPERES / BUS_BYTES_PER_SECOND,
        SUPPLY_VOLTS * STANDBY_AMPERES,
    )


@dataclass(frozen=True, slots=True)
class Nand:
    """A flash memory of equal channels."""

    shape: NandShape
    timing: NandTiming
    energy: NandEnergy

    @property
    def page_seconds(self) -> float:
        """Of a page on a channel's bus."""
        return self.shape.page_bytes / self.timing.transfer

    @property
    def bus_bandwidth(self) -> float:
        """Bytes per second over all channels."""
        return self.shape.channels * self.timing.transfer

    @property
    def read_bandwidth(self) -> float:
        """Bytes per second that long reads reach: the buses', or what all planes sense."""
        s = self.shape
        sensed = s.all_dies * s.planes * s.page_bytes / self.timing.read
        return min(self.bus_bandwidth, sensed)

    def pages_of(self, nbytes: float) -> int:
        """Pages that hold `nbytes`."""
        return -int(-nbytes // self.shape.page_bytes)

    def read_seconds(self, pages: int) -> float:
        """Until the last of `pages` has left its channel; they are dealt out over channels, then planes.

        Either the bus is busy from the first page on, or the planes sense in rounds and the bus waits for
        each.
        """
        if pages < 1:
            return 0.0
        s, page = self.shape, self.page_seconds
        each = -(-pages // s.channels)  # of the busiest channel
        planes = s.channel_dies * s.planes
        rounds = -(-each // planes)
        last = each - (rounds - 1) * planes
        return max(self.timing.read + each * page, rounds * self.timing.read + last * page)

    def read_joules(self, pages: float, bus_bytes: float) -> float:
        """Of sensing `pages` and sending `bus_bytes` over buses."""
        return pages * self.energy.read + bus_bytes * self.energy.bus

    @property
    def standby_watts(self) -> float:
        """Of all dies."""
        return self.shape.all_dies * self.energy.standby
