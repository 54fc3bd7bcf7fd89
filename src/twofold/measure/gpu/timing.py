"""How long GPU work takes: by the GPU's own clock, between events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from twofold.measure.probe import quartile

Work = Callable[[], object]


class Timer(Protocol):
    """Times work. Tests put a clock of their own in its place."""

    def seconds(self, run: Work) -> float:
        """Seconds of one execution of `run`, which only launches work."""


class CudaTimer:
    """Lower quartile over executions between events, within `budget` seconds, after warming up."""

    def __init__(self, budget: float) -> None:
        self._budget = budget

    def seconds(self, run: Work) -> float:
        """Several executions stand between two events, so that the events' resolution does not show."""
        for _ in range(3):
            run()
        once = max(self._between(run, 1), 1e-6)
        inner = max(1, round(2e-4 / once))
        turns = max(3, min(50, round(self._budget / (once * inner))))
        return quartile([self._between(run, inner) for _ in range(turns)])

    @staticmethod
    def _between(run: Work, times: int) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        for _ in range(times):
            run()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3 / times
