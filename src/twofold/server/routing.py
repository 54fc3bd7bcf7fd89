"""Which worker gets a job. Pure: routers know the workers' queues and what they sent where, nothing else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from twofold.server.messages import Generate, Job, Ready

MARGIN = 4
"""How many jobs more than the least busy worker may have the one that knows the prompt."""


@dataclass(slots=True)
class WorkerState:
    """A live worker. num_jobs: sent to it and not ended yet, those it still has to cancel included."""

    name: str
    ready: Ready
    num_jobs: int = 0


class Router(Protocol):
    """Chooses a worker for each job."""

    def choose(self, job: Job, workers: Sequence[WorkerState]) -> str:
        """The name of one of `workers` (at least one), which will get the job."""

    def forget(self, worker: str) -> None:
        """The worker is gone, and with it all that it had cached."""


class PrefixAffinity:
    """Sends a prompt where most of it was sent before, so that its blocks are found in the prefix cache,
    unless that worker has more than `margin` jobs more than the least busy one; then to the least busy one.

    Per worker the chained hashes of the blocks sent to it are remembered, as many as its cache has blocks,
    least recently sent forgotten first. A hash that collides, or a block that the worker has evicted, costs
    time, never correctness. Among equals the worker that knows least is chosen, so that conversations spread.
    """

    def __init__(self, margin: int = MARGIN) -> None:
        self.margin = margin
        self._known: dict[str, OrderedDict[int, None]] = {}

    def choose(self, job: Job, workers: Sequence[WorkerState]) -> str:
        """See `Router`."""
        keys = _block_keys(job, workers[0].ready.block_size)
        known = [self._known.setdefault(worker.name, OrderedDict()) for worker in workers]
        matched = [_num_leading(keys, blocks) for blocks in known]
        every = range(len(workers))
        best = min(every, key=lambda i: (-matched[i], workers[i].num_jobs, len(known[i])))
        idlest = min(every, key=lambda i: (workers[i].num_jobs, -matched[i], len(known[i])))
        chosen = best if workers[best].num_jobs <= workers[idlest].num_jobs + self.margin else idlest
        _remember(keys, known[chosen], workers[chosen].ready.num_blocks)
        return workers[chosen].name

    @property
    def known(self) -> Set[str]:
        """The workers of which something is remembered."""
        return self._known.keys()

    def forget(self, worker: str) -> None:
        """See `Router`."""
        self._known.pop(worker, None)


def _block_keys(job: Job, size: int) -> list[int]:
    """A hash for each leading block of the prompt that a prefix cache could serve: never all of it, and
    nothing for embeddings, which compute every token."""
    if not isinstance(job, Generate):
        return []
    keys: list[int] = []
    key, ids = 0, job.prompt_ids
    for start in range(0, len(ids) - size, size):
        key = hash((key, ids[start : start + size]))
        keys.append(key)
    return keys


def _num_leading(keys: Sequence[int], known: OrderedDict[int, None]) -> int:
    """How many of `keys` are known before the first that is not."""
    for count, key in enumerate(keys):
        if key not in known:
            return count
    return len(keys)


def _remember(keys: Sequence[int], known: OrderedDict[int, None], capacity: int) -> None:
    """Note `keys` as the newest, the first block last: without it those behind are worth nothing."""
    for key in reversed(keys):
        known[key] = None
        known.move_to_end(key)
    while len(known) > capacity:
        known.popitem(last=False)
