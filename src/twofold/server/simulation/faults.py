"""What happens to the workers of the simulation at random moments."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Protocol

from twofold.server.simulation.pool import SimulatedPool
from twofold.server.simulation.timeline import Timeline
from twofold.server.simulation.worker import SimulatedWorker


class Ending(Protocol):
    """What comes to an end."""

    @property
    def over(self) -> bool:
        """Whether it has, so that faults would hit nobody."""


class Faults:
    """Kills workers, slows them, withholds their memory and lets their steps fail, one of these every `gap`
    seconds in the mean; counts what it did in `counts`."""

    def __init__(
        self,
        timeline: Timeline,
        rng: Random,
        pool: SimulatedPool,
        counts: Counter[str],
        gap: float,
        until: Ending,
    ) -> None:
        self._timeline = timeline
        self._rng = rng
        self._pool = pool
        self._counts = counts
        self._gap = gap
        self._until = until
        self._kinds = (self._kill, self._withhold, self._slow, self._fail)
        self._next()

    def _next(self) -> None:
        self._timeline.after(self._rng.expovariate(1 / self._gap), self._inject)

    def _inject(self) -> None:
        if self._until.over:
            return
        workers = self._pool.workers
        if workers:
            self._rng.choice(self._kinds)(self._rng.choice(workers))
        self._next()

    def _kill(self, worker: SimulatedWorker) -> None:
        self._counts["worker killed"] += 1
        self._pool.kill(worker)

    def _withhold(self, worker: SimulatedWorker) -> None:
        blocks = worker.blocks
        if blocks.withhold(self._rng.randint(1, blocks.num_blocks)):
            self._counts["memory withheld"] += 1
            self._timeline.after(self._rng.expovariate(5), blocks.restore)

    def _slow(self, worker: SimulatedWorker) -> None:
        self._counts["worker slowed"] += 1
        worker.runner.slowness = self._rng.choice((1.0, 5.0, 30.0))

    def _fail(self, worker: SimulatedWorker) -> None:
        """One step fails, or two in a row, after which the worker gives up."""
        self._counts["step failed"] += 1
        worker.runner.to_fail = self._rng.choice((1, 1, 1, 2))
