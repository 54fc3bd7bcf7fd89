"""A DRAM channel: its shape, its timing and its energy, with what an access to an open-row bank costs.

Rows are opened (activate), accessed by columns, and closed (precharge); one row per bank is open at a time.
Times are in seconds, energies in joules. All-bank arithmetic is in `bank_mac`; `dram_events` plays the same
commands one by one, and the tests hold the closed forms here and there to it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

from twofold.devices.parts.work import NOTHING, Work

NS = 1e-9


@dataclass(frozen=True, slots=True)
class DramShape:
    """Channels, banks per channel, rows per bank, bytes of a row, and bytes of one column access."""

    channels: int
    banks: int
    rows: int
    row_bytes: int
    column_bytes: int

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"DRAM shape: {field.name} must be a positive integer, not {value!r}")
        if self.row_bytes % self.column_bytes:
            raise ValueError(
                f"DRAM shape: row_bytes ({self.row_bytes}) must be a multiple of column_bytes "
                f"({self.column_bytes})"
            )

    @property
    def columns(self) -> int:
        """Column accesses in a row."""
        return self.row_bytes // self.column_bytes

    @property
    def all_banks(self) -> int:
        """Banks of all channels."""
        return self.channels * self.banks

    @property
    def nbytes(self) -> int:
        """Capacity in bytes."""
        return self.all_banks * self.rows * self.row_bytes


@dataclass(frozen=True, slots=True)
class DramTiming:
    """Least distances between commands, in seconds, under their JEDEC names.

    rcd_*: activate to read, write or in-bank multiply; rp: precharge to activate; ras: activate to precharge;
    rc: activate to activate of one bank; ccd: column to column of different bank groups, also the time of one
    column on the bus; ccd_mac: one in-bank multiply to the next, in all bank groups at once; rtp: read to
    precharge; wr: end of write data to precharge; cl, cwl: read and write latency; rrd: activate to
    activate of another bank; faw: window of four activates; rfc: one refresh; refi: interval between
    refreshes.
    """

    rcd_read: float
    rcd_write: float
    rcd_mac: float
    rp: float
    ras: float
    rc: float
    ccd: float
    ccd_mac: float
    rtp: float
    wr: float
    cl: float
    cwl: float
    rrd: float
    faw: float
    rfc: float
    refi: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0.0 < value < 1.0:
                raise ValueError(
                    f"DRAM timing: {field.name} must be a positive number of seconds, not {value!r}"
                )
        if self.rfc >= self.refi:
            raise ValueError(
                f"DRAM timing: a refresh ({self.rfc} s) must be shorter than its interval ({self.refi} s)"
            )

    @property
    def refresh_factor(self) -> float:
        """How much longer work takes because banks are away for refresh."""
        return self.refi / (self.refi - self.rfc)


@dataclass(frozen=True, slots=True)
class DramEnergy:
    """Joules per command, watts of standby per channel.

    activate: opening and closing one row of one bank; read, write: one column between a bank and the pins;
    mac: one column in *all* banks of a channel, read and multiplied in place; bus: one byte over the pins;
    refresh: one refresh of a channel; standby: watts with all rows closed; active: watts with rows open.
    """

    activate: float
    read: float
    write: float
    mac: float
    bus: float
    refresh: float
    standby: float
    active: float

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0.0:
                raise ValueError(
                    f"DRAM energy: {field.name} must not be negative, not {getattr(self, field.name)!r}"
                )
        if self.active < self.standby:
            raise ValueError(
                "DRAM energy: standby power with open rows cannot be below that with closed rows"
            )


@dataclass(frozen=True, slots=True)
class DramWork:
    """Commands of all channels together, and the seconds they keep the memory busy (refresh included).

    activates: rows opened, counted per bank; macs: columns multiplied in all banks of a channel, counted per
    channel; reads, writes: single-bank columns; bus_bytes: bytes over the pins.
    """

    seconds: float = 0.0
    activates: int = 0
    macs: int = 0
    reads: int = 0
    writes: int = 0
    bus_bytes: int = 0

    def __add__(self, other: DramWork) -> DramWork:
        """One after the other."""
        return DramWork(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> DramWork:
        """The same work `times` times in a row."""
        return DramWork(*(getattr(self, f.name) * times for f in fields(self)))


class _Pace(NamedTuple):
    """Of a stream: seconds until its first column is there; seconds and joules of each column."""

    latency: float
    column: float
    joules: float


@dataclass(frozen=True)
class Dram:
    """A memory of equal channels."""

    shape: DramShape
    timing: DramTiming
    energy: DramEnergy

    @property
    def bank_bandwidth(self) -> float:
        """Bytes per second that all banks together deliver to arithmetic beside them, rows being open."""
        return self.shape.all_banks * self.shape.column_bytes / self.timing.ccd_mac

    @property
    def bus_bandwidth(self) -> float:
        """Bytes per second over the pins of all channels."""
        return self.shape.channels * self.shape.column_bytes / self.timing.ccd

    def columns_of(self, nbytes: int) -> int:
        """Column accesses that hold `nbytes`."""
        return -(-nbytes // self.shape.column_bytes)

    def read_row(self, nbytes: int) -> DramWork:
        """Read `nbytes` that lie together in rows of one bank, to the pins."""
        s, t = self.shape, self.timing
        columns = self.columns_of(nbytes)
        rows = -(-columns // s.columns)
        # From one row's last read to the next row's first: precharge and activate.
        seconds = t.rcd_read + t.cl + columns * t.ccd + (rows - 1) * (t.rtp + t.rp + t.rcd_read)
        return DramWork(
            seconds * t.refresh_factor, activates=rows, reads=columns, bus_bytes=columns * s.column_bytes
        )

    def write_row(self, nbytes: int) -> DramWork:
        """Write `nbytes` that lie together in rows of one bank, from the pins, until the bank is closed
        again."""
        s, t = self.shape, self.timing
        columns = self.columns_of(nbytes)
        rows = -(-columns // s.columns)
        seconds = rows * (t.rcd_write + t.cwl + t.wr + t.rp) + columns * t.ccd
        return DramWork(
            seconds * t.refresh_factor, activates=rows, writes=columns, bus_bytes=columns * s.column_bytes
        )

    def scatter(self, per_bank: int) -> DramWork:
        """Write `per_bank` columns to every bank of every channel, each to a row of its own (no row hits).

        Banks overlap: the time is that of one bank's rows one after the other, or that of the channel's
        activates at the rate that `rrd` and `faw` allow, whichever is longer.
        """
        s, t = self.shape, self.timing
        if per_bank == 0:
            return DramWork()
        cycle = max(t.rcd_write + t.cwl + t.ccd + t.wr + t.rp, t.rc)
        spacing = max(t.rrd, t.faw / 4, t.ccd)
        seconds = max((s.banks - 1) * spacing + per_bank * cycle, (per_bank * s.banks - 1) * spacing + cycle)
        writes = per_bank * s.all_banks
        return DramWork(
            seconds * t.refresh_factor, activates=writes, writes=writes, bus_bytes=writes * s.column_bytes
        )

    def stream(self, nbytes: float) -> Work:
        """Read `nbytes` that lie evenly over all channels, whole rows of one bank after the other, over the
        pins."""
        return self._stream(nbytes, self._reading)

    def store(self, nbytes: float) -> Work:
        """Write `nbytes`, laid out as `stream` reads them."""
        return self._stream(nbytes, self._writing)

    @property
    def read_cycle(self) -> float:
        """Seconds from opening a row of a bank to opening its next one, all columns being read."""
        t = self.timing
        opened = t.rcd_read + (self.shape.columns - 1) * t.ccd + t.rtp
        return max(max(t.ras, opened) + t.rp, t.rc)

    @property
    def write_cycle(self) -> float:
        """Seconds from opening a row of a bank to opening its next one, all columns being written."""
        t = self.timing
        opened = t.rcd_write + t.cwl + self.shape.columns * t.ccd + t.wr
        return max(max(t.ras, opened) + t.rp, t.rc)

    @cached_property
    def _reading(self) -> _Pace:
        return self._pace(self.timing.rcd_read + self.timing.cl, self.read_cycle, self.energy.read)

    @cached_property
    def _writing(self) -> _Pace:
        return self._pace(self.timing.rcd_write + self.timing.cwl, self.write_cycle, self.energy.write)

    def _pace(self, latency: float, cycle: float, column_joules: float) -> _Pace:
        """Rows of other banks open while one is accessed: a channel's pace is that of its columns, of its
        activates, or of its banks' cycles, whichever is slowest."""
        s, t, e = self.shape, self.timing, self.energy
        row = max(s.columns * t.ccd, t.rrd, t.faw / 4, cycle / s.banks)
        joules = column_joules + s.column_bytes * e.bus + e.activate / s.columns
        return _Pace(latency * t.refresh_factor, row / s.columns * t.refresh_factor, joules)

    def _stream(self, nbytes: float, pace: _Pace) -> Work:
        if not nbytes > 0:
            return NOTHING
        s = self.shape
        columns = max(nbytes / s.column_bytes, 1.0)
        seconds = pace.latency + max(columns / s.channels, 1.0) * pace.column
        open_watts = s.channels * (self.energy.active - self.energy.standby)
        return Work.of("dram", seconds, columns * pace.joules + seconds * open_watts)

    def joules(self, work: DramWork) -> float:
        """Energy of `work` beyond standby with closed rows, which burns whether or not there is work."""
        e, s = self.energy, self.shape
        commands = (
            work.activates * e.activate
            + work.macs * e.mac
            + work.reads * e.read
            + work.writes * e.write
            + work.bus_bytes * e.bus
        )
        return commands + work.seconds * s.channels * (e.active - e.standby)

    @property
    def standby_watts(self) -> float:
        """Watts of all channels with closed rows, refresh included."""
        e = self.energy
        return self.shape.channels * (e.standby + e.refresh / self.timing.refi)
