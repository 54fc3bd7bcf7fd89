"""A DRAM channel command by command: slow, and simple enough to be believed. The closed forms are tested
against it.

Every command is issued at the earliest time that the distances in `DramTiming` allow, given all commands
before it. A refresh that falls due waits for the next time that all rows are closed (JEDEC lets a few be
postponed).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.devices.parts.bank_mac import MacStream
from twofold.devices.parts.dram import Dram

_NEVER = -1.0


@dataclass(slots=True)
class _Bank:
    activated: float = _NEVER
    precharged: float = 0.0
    closable: float = 0.0


@dataclass(slots=True)
class ChannelSimulator:
    """One channel. `now`: time of the latest command; `counts`: commands issued by name."""

    dram: Dram
    now: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    _banks: list[_Bank] = field(default_factory=list)
    _column: float = _NEVER
    _activates: list[float] = field(default_factory=list)
    _next_refresh: float = 0.0

    def __post_init__(self) -> None:
        self._banks = [_Bank() for _ in range(self.dram.shape.banks)]
        self._next_refresh = self.dram.timing.refi

    def _issue(self, name: str, when: float, times: int = 1) -> float:
        self.now = max(self.now, when)
        self.counts[name] = self.counts.get(name, 0) + times
        return when

    def _refresh_if_due(self) -> float:
        """Pay every refresh that is due; returns when banks may be activated."""
        t = self.dram.timing
        ready = max(b.precharged for b in self._banks)
        while max(ready, self.now) >= self._next_refresh:
            start = self._issue("REF", max(ready, self.now))
            ready = start + t.rfc
            self._next_refresh += t.refi
            for bank in self._banks:
                bank.precharged = ready
        return ready

    def run(self, stream: MacStream) -> float:
        """Play `stream`; returns the seconds from its first command until its rows are closed."""
        t, width = self.dram.timing, self.dram.shape.columns
        started = self._refresh_if_due()
        self.now = max(self.now, started)
        started = self.now
        filled = started + stream.fill * t.ccd
        free = started
        self.counts["WRGB"] = self.counts.get("WRGB", 0) + stream.fill
        last_read = started
        for row in _row_contents(stream, width):
            ready = self._refresh_if_due()
            bank = self._banks[0]
            activated = max(ready, started)
            if bank.activated >= 0:
                activated = max(activated, bank.activated + t.rc)
            self._issue("ACT", activated, self.dram.shape.banks)
            mac = activated
            for ends_output in row:
                mac = self._issue("MAC", max(activated + t.rcd_mac, free, filled))
                free = mac + t.ccd_mac
                if ends_output:
                    last_read = self._issue("RDMAC", free)
                    free = last_read + t.ccd
            precharge = max(activated + t.ras, mac + t.rtp)
            for each in self._banks:
                each.activated = activated
                each.precharged = precharge + t.rp
        self.now = max(self.now, self._banks[0].precharged, last_read + t.ccd)
        return self.now - started

    def stream(self, columns: int, *, write: bool = False) -> float:
        """Read or write `columns` one after the other, a row of each bank in turn, rows being opened as early
        as possible; returns seconds until the last data."""
        t, width = self.dram.timing, self.dram.shape.columns
        name = "WR" if write else "RD"
        opening, latency = (t.rcd_write, t.cwl) if write else (t.rcd_read, t.cl)
        started = self.now = max(self.now, self._refresh_if_due())
        for row, first in enumerate(range(0, columns, width)):
            bank = self._banks[row % len(self._banks)]
            earliest = started
            if self.now >= self._next_refresh:
                earliest = self._refresh_if_due()
            activated = self._activate(bank, earliest)
            for _ in range(min(width, columns - first)):
                self._column = self._issue(name, max(activated + opening, self._column + t.ccd))
            closing = t.cwl + t.ccd + t.wr if write else t.rtp
            bank.precharged = max(activated + t.ras, self._column + closing) + t.rp
        return self._column + latency + t.ccd - started

    def _activate(self, bank: _Bank, earliest: float) -> float:
        """Open a row of `bank` as early as its cycle and the channel's rate of activates allow."""
        t = self.dram.timing
        when = max(bank.precharged, earliest)
        if bank.activated >= 0:
            when = max(when, bank.activated + t.rc)
        if self._activates:
            when = max(when, self._activates[-1] + t.rrd)
        if len(self._activates) >= 4:
            when = max(when, self._activates[-4] + t.faw)
        self._activates.append(self._issue("ACT", when))
        bank.activated = when
        return when

    def scatter(self, per_bank: int) -> float:
        """Write `per_bank` columns to every bank, each to a new row; returns seconds until all banks are
        closed."""
        t = self.dram.timing
        started = self.now = max(self.now, self._refresh_if_due())
        for _ in range(per_bank):
            for bank in self._banks:
                when = self._activate(bank, started)
                write = max(when + t.rcd_write, self._column + t.ccd)
                self._column = self._issue("WR", write)
                bank.precharged = max(when + t.ras, write + t.cwl + t.ccd + t.wr) + t.rp
        self.now = max(b.precharged for b in self._banks)
        return self.now - started


def _row_contents(stream: MacStream, width: int) -> list[list[bool]]:
    """Per row, its multiply commands in order; True where a command completes an output."""
    per_output = [False] * (stream.columns - 1) + [True]
    if stream.packed:
        flat = per_output * stream.outputs
        rows = [flat[i : i + width] for i in range(0, len(flat), width)]
    else:
        one = [per_output[i : i + width] for i in range(0, stream.columns, width)]
        rows = one * stream.outputs
    # Heads that share a row multiply it one after the other while it is open.
    return [row * stream.reuse for row in rows]
