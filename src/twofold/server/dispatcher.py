"""Dispatcher: the life of every request between its client and a worker, as a pure state machine.

It knows no sockets, tasks, clocks or tensors: `now` (seconds, never going back) is passed in, commands leave
through `send`, answers through `deliver`. Neither callback may call back. A job is in one of four states:

    submit ─▶ waiting ──▶ sent ──▶ begun ──▶ ended          waiting: no worker is up; begun: a Chunk came
                 ▲          │        │
                 └── lost ──┘        │                      once, where nothing had come from the lost worker
                            └────────┴─▶ leaving ──▶ gone   its client left or was told a failure; the
                                                            worker has been told to cancel and will confirm

What it asks of the workers: commands and events keep their order; every job is answered by exactly one
Ended, Embedded or Failed, a cancelled one too (a Cancel for what has ended is answered by nothing). A name
stands for one incarnation: a process started again gets a new name, so that what the dead one had still sent
names a worker that is not there, and is ignored.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType
from typing import Literal

from twofold.server.messages import Cancel, Chunk, Command, Failed, FailureKind, Job, Ready, RequestEvent
from twofold.server.routing import Router, WorkerState

RefusalKind = Literal["queue_full", "draining", "unavailable"]

RECENT = 64
"""Endings over which the rate is taken that Retry-After is estimated from."""
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 60.0
UNKNOWN_RETRY = 5.0
"""Seconds after which to try again where there is nothing to estimate from."""


class Refused(Exception):  # noqa: N818 - not an error of ours: the server says no
    """A request that is not accepted. kind: why; retry_after: seconds after which it may be."""

    def __init__(self, kind: RefusalKind, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.kind: RefusalKind = kind
        self.message = message
        self.retry_after = retry_after


@dataclass(slots=True)
class _Open:
    """A request whose client waits. worker: None while there is none for it."""

    job: Job
    deadline: float
    worker: str | None = None
    begun: bool = False
    retried: bool = False


class Dispatcher:
    """See the module. max_queue: requests accepted beyond those that the live workers can run at once;
    timeout: seconds from arrival to the end of an answer.

    send: (worker, command); deliver: (request id, event). Every submitted id gets exactly one Ended, Embedded
    or Failed unless its client leaves before, and nothing after it.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        timeout: float,
        router: Router,
        send: Callable[[str, Command], None],
        deliver: Callable[[str, RequestEvent], None],
    ) -> None:
        self._max_queue = max_queue
        self._timeout = timeout
        self._router = router
        self._send = send
        self._deliver = deliver
        self._workers: dict[str, WorkerState] = {}
        # In order of arrival, and so of deadlines: the first is the next that is due.
        self._open: OrderedDict[str, _Open] = OrderedDict()
        # Cancelled, with the worker that has yet to confirm.
        self._leaving: dict[str, str] = {}
        self._waiting: dict[str, _Open] = {}
        self._num_running = 0
        self._drained_at: float | None = None
        self._endings: deque[float] = deque(maxlen=RECENT)

    # What there is

    @property
    def workers(self) -> Mapping[str, WorkerState]:
        """Live workers by name."""
        return MappingProxyType(self._workers)

    @property
    def num_running(self) -> int:
        """Requests that have begun to be answered."""
        return self._num_running

    @property
    def num_waiting(self) -> int:
        """Requests whose clients wait for a first answer."""
        return len(self._open) - self._num_running

    @property
    def num_unfinished(self) -> int:
        """All requests that take up room: waiting, running, and cancelled but not confirmed."""
        return len(self._open) + len(self._leaving)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused for good."""
        return self._drained_at is not None

    @property
    def capacity(self) -> int:
        """Unfinished requests from which new ones are refused."""
        return self._max_queue + sum(worker.ready.max_num_seqs for worker in self._workers.values())

    # Workers

    def worker_up(self, worker: str, ready: Ready, now: float) -> None:
        """A worker can take jobs: those that waited for one are sent."""
        del now
        assert worker not in self._workers, f"worker {worker!r} is up already"
        self._workers[worker] = WorkerState(worker, ready)
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            self._dispatch(request)

    def worker_lost(self, worker: str, now: float) -> None:
        """A worker is gone with all it had. Requests that have yielded nothing are sent elsewhere, or wait
        for a worker, once; the others fail. Unknown workers are fine."""
        if self._workers.pop(worker, None) is None:
            return
        self._router.forget(worker)
        for id in [id for id, holder in self._leaving.items() if holder == worker]:
            del self._leaving[id]
        for id, request in [item for item in self._open.items() if item[1].worker == worker]:
            if request.begun or request.retried:
                when = "while it answered" if request.begun else "twice"
                self._close(id, request, now)
                self._deliver(id, Failed(id, "lost", f"the worker of this request was lost {when}"))
            else:
                request.retried = True
                self._dispatch(request)

    # Requests

    def submit(self, job: Job, now: float) -> None:
        """Accept a job whose id is new, or raise Refused."""
        if self._drained_at is not None:
            wait = max(self._drained_at - now, SHORTEST_RETRY)
            raise Refused("draining", "the server is shutting down and takes no new requests", wait)
        if self.num_unfinished >= self.capacity:
            if not self._workers:
                raise Refused("unavailable", "no worker is up; one is being started", UNKNOWN_RETRY)
            raise Refused(
                "queue_full",
                f"{self.num_unfinished} requests are running or waiting, which is all the server takes",
                self._retry_after(now),
            )
        used = job.id in self._open or job.id in self._leaving
        assert not used, f"id {job.id!r} is in use"
        request = self._open[job.id] = _Open(job, now + self._timeout)
        self._dispatch(request)

    def leave(self, id: str, now: float) -> None:
        """The client has gone: its request is cancelled, and nothing more is delivered. Ended and unknown ids
        are fine."""
        request = self._open.get(id)
        if request is not None:
            self._cancel(id, request, now)

    def event(self, worker: str, event: RequestEvent, now: float) -> None:
        """A worker says something about a request."""
        id = event.id
        if self._leaving.get(id) == worker:
            if not isinstance(event, Chunk):
                del self._leaving[id]
                self._workers[worker].num_jobs -= 1
            return
        request = self._open.get(id)
        if request is None or request.worker != worker:
            return  # of an incarnation that is gone
        if not isinstance(event, Chunk):
            self._workers[worker].num_jobs -= 1
            self._close(id, request, now)
        elif not request.begun:
            request.begun = True
            self._num_running += 1
        self._deliver(id, event)

    # Time

    def tick(self, now: float) -> float | None:
        """End what is past its deadline. Returns the next one (call again then), None where there is none."""
        if self._drained_at is not None and self._drained_at <= now:
            for id in list(self._open):
                self._fail(id, "draining", "the server shut down before the answer was complete", now)
        while self._open:
            id, request = next(iter(self._open.items()))
            if request.deadline > now:
                return min(request.deadline, inf if self._drained_at is None else self._drained_at)
            self._fail(id, "timeout", f"the answer took longer than {self._timeout:g} seconds", now)
        return None

    def drain(self, now: float, grace: float) -> None:
        """Refuse new requests from now on; what is left after `grace` seconds fails. Again: whichever ends
        sooner counts."""
        until = now + grace
        self._drained_at = until if self._drained_at is None else min(self._drained_at, until)

    # Inside

    def _dispatch(self, request: _Open) -> None:
        """Send it to a worker, or let it wait for one."""
        if not self._workers:
            request.worker = None
            self._waiting[request.job.id] = request
            return
        name = self._router.choose(request.job, list(self._workers.values()))
        request.worker = name
        self._workers[name].num_jobs += 1
        self._send(name, request.job)

    def _fail(self, id: str, kind: FailureKind, message: str, now: float) -> None:
        self._cancel(id, self._open[id], now)
        self._deliver(id, Failed(id, kind, message))

    def _cancel(self, id: str, request: _Open, now: float) -> None:
        """Nothing more is delivered; its worker, if it has one, is told and will confirm."""
        self._close(id, request, now)
        if request.worker is not None:
            self._leaving[id] = request.worker
            self._send(request.worker, Cancel(id))

    def _close(self, id: str, request: _Open, now: float) -> None:
        del self._open[id]
        self._waiting.pop(id, None)
        self._num_running -= request.begun
        self._endings.append(now)

    def _retry_after(self, now: float) -> float:
        """Seconds in which as many requests end as now wait for their first answer, at the recent rate."""
        if not self._endings:
            return UNKNOWN_RETRY
        # Counted up to now: the longer nothing ends, the longer the estimate.
        interval = (now - self._endings[0]) / len(self._endings)
        return min(max(self.num_waiting * interval, SHORTEST_RETRY), LONGEST_RETRY)
