"""The only place where time is read: a wall clock for real devices, a virtual one for modelled devices."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since the clock was made."""

    def now(self) -> float:
        """Seconds since the clock was made."""

    def wait_until(self, moment: float) -> None:
        """Return when `now() >= moment`."""


class WallClock:
    """Real time. start: on the system's steady clock, which all processes share (None: now)."""

    def __init__(self, start: float | None = None) -> None:
        self.start = time.perf_counter() if start is None else start

    def now(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.start

    def wait_until(self, moment: float) -> None:
        """Sleep until `moment`."""
        delay = moment - self.now()
        if delay > 0:
            time.sleep(delay)


class VirtualClock:
    """Time that advances only when somebody is charged for it."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds charged so far."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        assert seconds >= 0, f"time cannot run backwards: {seconds}"
        self._now += seconds

    def wait_until(self, moment: float) -> None:
        """Jump to `moment` unless it has passed."""
        self._now = max(self._now, moment)
