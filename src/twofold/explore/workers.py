"""Who evaluates the tasks of a search: the processes of this machine, or those of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from typing import Any, Protocol

from twofold.explore.evaluate import Evaluator, Task, Verdict

BUNDLE = 8
"""Tasks that are sent to a worker together: large enough that sending does not count, small enough that what
was found so far still discards many."""
WORTH_A_WORKER = 60
"""Tasks from which another process, which takes about two seconds to start, pays."""


class Pool(Protocol):
    """Evaluates tasks in any order. `tasks` is drawn from only when somebody is free, so that it can leave
    out what the results so far have made pointless."""

    workers: int

    def run(self, tasks: Iterator[Task], expected: int) -> Iterator[list[Verdict]]:
        """The verdicts of all `tasks`, of which there are about `expected`."""

    def close(self) -> None:
        """Let the workers go."""


class LocalPool:
    """This process and `workers` - 1 others, which are started afresh (spawned)."""

    def __init__(self, evaluator: Evaluator, workers: int | None = None) -> None:
        self.evaluator = evaluator
        self.workers = available_cores() if workers is None else workers
        if self.workers < 1:
            raise ValueError(f"jobs is {self.workers}; it must be at least 1")
        self._pool: ProcessPoolExecutor | None = None
        self._ready: list[Future[None]] = []

    def run(self, tasks: Iterator[Task], expected: int) -> Iterator[list[Verdict]]:
        """See `Pool`. This process evaluates while the others start, and gives them nothing before they have,
        so that it never waits for one that is slow to."""
        helpers = self.workers - 1
        if not helpers or (self._pool is None and expected < WORTH_A_WORKER):
            for task in tasks:
                yield self.evaluator(task)
            return
        pool = self._started(helpers)
        under_way: set[Future[list[Verdict]]] = set()
        while True:
            started = sum(ready.done() for ready in self._ready)
            while len(under_way) < 2 * started and (bundle := list(islice(tasks, BUNDLE))):
                under_way.add(pool.submit(_evaluate, bundle))
            if own := next(tasks, None):
                yield self.evaluator(own)
                done, under_way = _split(under_way)
            elif under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            else:
                return
            for future in done:
                yield future.result()

    def close(self) -> None:
        """See `Pool`."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _started(self, helpers: int) -> ProcessPoolExecutor:
        """The other processes, which stay for later runs."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                helpers, mp_context=get_context("spawn"), initializer=_start, initargs=(self.evaluator,)
            )
            self._ready = [self._pool.submit(_ready) for _ in range(helpers)]
        return self._pool


class RayPool:
    """The workers of a Ray cluster: one that runs at `address`, or one that is started here.

    ValueError where Ray is not installed or no cluster answers.
    """

    def __init__(self, evaluator: Evaluator, address: str | None = None) -> None:
        try:
            import ray  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise ValueError("--ray needs Ray: pip install 'twofold[ray]'") from None
        self._ray = ray
        try:
            if not ray.is_initialized():
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from None
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._evaluator = ray.put(evaluator)
        self._remote = ray.remote(num_cpus=1)(_evaluate_with)

    def run(self, tasks: Iterator[Task], expected: int) -> Iterator[list[Verdict]]:
        """See `Pool`."""
        del expected
        under_way: list[Any] = []
        while True:
            while len(under_way) < 2 * self.workers and (bundle := list(islice(tasks, BUNDLE))):
                under_way.append(self._remote.remote(self._evaluator, bundle))
            if not under_way:
                return
            done, under_way = self._ray.wait(under_way)
            for reference in done:
                yield self._ray.get(reference)

    def close(self) -> None:
        """See `Pool`. The cluster stays."""
        self._ray.shutdown()


def available_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_EVALUATOR: Evaluator | None = None
"""In a worker process, what it evaluates with."""


def _start(evaluator: Evaluator) -> None:
    global _EVALUATOR
    evaluator.prepare()
    _EVALUATOR = evaluator


def _ready() -> None:
    """Nothing: makes the pool start a worker before there is work."""


def _evaluate(bundle: list[Task]) -> list[Verdict]:
    assert _EVALUATOR is not None
    return _evaluate_with(_EVALUATOR, bundle)


def _evaluate_with(evaluator: Evaluator, bundle: list[Task]) -> list[Verdict]:
    return [verdict for task in bundle for verdict in evaluator(task)]


def _split(
    futures: set[Future[list[Verdict]]],
) -> tuple[set[Future[list[Verdict]]], set[Future[list[Verdict]]]]:
    """(done, not done)."""
    done = {future for future in futures if future.done()}
    return done, futures - done
