"""Reading a machine's sensors at intervals while something else runs."""

from __future__ import annotations

import threading
from time import perf_counter
from types import TracebackType
from typing import NamedTuple

from twofold.measure.sensors import EnergyMeter, Sensors


class Sample(NamedTuple):
    """What the sensors said `seconds` after the start: joules since then, °C, Hz, bytes in memory; None where
    there is nothing to read."""

    seconds: float
    joules: float | None
    temperature: float | None
    frequency: float | None
    resident: int | None


class Sampler:
    """Takes a sample when entered, every `interval` seconds and when left, in a thread of its own.

    samples: those so far. The readers release nothing of the processor but a few microseconds per sample.
    """

    def __init__(self, meter: EnergyMeter | None, sensors: Sensors, interval: float) -> None:
        self.samples: list[Sample] = []
        self._meter, self._sensors, self._interval = meter, sensors, interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sensors", daemon=True)
        self._start = self._joules = 0.0

    def __enter__(self) -> Sampler:
        self._start = perf_counter()
        self._joules = self._meter.joules(self._start) if self._meter is not None else 0.0
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._take()

    @property
    def joules(self) -> float | None:
        """Joules from the first to the last sample; None without a meter."""
        return self.samples[-1].joules

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._take()

    def _take(self) -> None:
        now = perf_counter()
        joules = None if self._meter is None else self._meter.joules(now) - self._joules
        s = self._sensors
        self.samples.append(Sample(now - self._start, joules, s.temperature(), s.frequency(), s.resident()))
