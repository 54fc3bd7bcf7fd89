"""Service: what the routes use. Requests go in, streams of events come out.

It joins the pure `Dispatcher` to the clock, the event loop and the worker processes, and decides nothing
itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from twofold.models.text import load_tokenizer
from twofold.models.tokenizer import TextTokenizer
from twofold.plan import Plan
from twofold.server.dispatcher import Dispatcher, RefusalKind, Refused
from twofold.server.messages import Chunk, Command, Job, Loading, Ready, RequestEvent
from twofold.server.processes import Launch, here
from twofold.server.routing import PrefixAffinity
from twofold.server.settings import ServerSettings
from twofold.server.stream import Stream as Stream
from twofold.server.worker import share_of_machine
from twofold.server.workers import Workers

Observer = Callable[[RequestEvent, float], None]
STOP_SECONDS = 10.0
"""How long workers get to leave once nothing is left to answer."""


class Service:
    """Engines in worker processes behind one queue.

    ready: of the first worker that was up, None before. created: when, in seconds since 1970. ValueError
    where the plan's model cannot be found or has no tokenizer. progress: told (what, done, total) while the
    first worker loads. launch: starts the workers where that is not this machine. refused: submissions by why
    they were refused; num_left: clients that went before the end.
    """

    def __init__(
        self,
        plan: Plan,
        settings: ServerSettings,
        *,
        progress: Callable[[str, int, int], None] | None = None,
        launch: Launch | None = None,
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.model_name = settings.model_name or plan.model
        self.tokenizer: TextTokenizer = load_tokenizer(plan.model)
        self.created = int(time.time())
        self.ready: Ready | None = None
        self._progress = progress
        replicas = settings.replicas
        self._workers = Workers(launch or here(share_of_machine(plan, replicas)), replicas, self)
        self._dispatcher = Dispatcher(
            max_queue=settings.max_queue,
            timeout=settings.timeout,
            router=PrefixAffinity(),
            send=self._send,
            deliver=self._deliver,
        )
        self.refused: Counter[RefusalKind] = Counter()
        self.num_left = 0
        self._streams: dict[str, Stream] = {}
        self._snapshots: dict[str, Any] = {}
        self._observers: list[Observer] = []
        self._timer: asyncio.TimerHandle | None = None
        self._idle: deque[asyncio.Future[None]] = deque()

    # --- life ---

    async def start(self) -> None:
        """Start the workers; returns once one is ready. ValueError where the plan is bad, WorkerFailedError
        where no worker comes up for another reason."""
        await self._workers.start()

    def drain(self) -> None:
        """Refuse new requests from now on; running ones get `settings.drain` seconds."""
        self._dispatcher.drain(time.monotonic(), self.settings.drain)
        self._tick()

    async def stop(self) -> None:
        """Drain, then stop the workers."""
        self.drain()
        while self._dispatcher.num_waiting + self._dispatcher.num_running:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle
        await self._workers.stop(STOP_SECONDS)
        if self._timer is not None:
            self._timer.cancel()

    async def kill(self) -> None:
        """Stop the workers at once, whatever they do."""
        await self._workers.stop(0.0)

    # --- requests ---

    def submit(self, job: Job) -> Stream:
        """Accept a job whose id is new; dispatcher.Refused where there is no room for it."""
        stream = Stream(job.id, self._gone)
        self._streams[job.id] = stream
        try:
            self._dispatcher.submit(job, stream.arrived)
        except BaseException as error:
            del self._streams[job.id]
            if isinstance(error, Refused):
                self.refused[error.kind] += 1
            raise
        if self._timer is None:
            self._tick()
        return stream

    def _gone(self, id: str) -> None:
        self._streams.pop(id, None)
        self.num_left += 1
        self._dispatcher.leave(id, time.monotonic())
        self._check_idle()

    def observe(self, callback: Observer) -> None:
        """Have `callback` called with every event that a client gets, and the seconds since its request
        came."""
        self._observers.append(callback)

    # --- what there is ---

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their first answer."""
        return self._dispatcher.num_waiting

    @property
    def num_running(self) -> int:
        """Requests that are being answered."""
        return self._dispatcher.num_running

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop and takes no new requests."""
        return self._dispatcher.draining

    @property
    def healthy(self) -> bool:
        """Whether there is a worker that takes requests."""
        return bool(self._dispatcher.workers)

    def snapshots(self) -> dict[str, Any]:
        """The newest `server.snapshot.Snapshot` of each live worker that has sent one, by its name."""
        return dict(self._snapshots)

    def worker_pids(self) -> dict[str, int]:
        """Process ids of the workers by name."""
        return self._workers.pids()

    # --- what workers do (see `workers.Listener`) ---

    def worker_up(self, worker: str, ready: Ready) -> None:
        """See `Listener`."""
        self.ready = self.ready or ready
        self._dispatcher.worker_up(worker, ready, time.monotonic())

    def worker_events(self, worker: str, events: Sequence[RequestEvent]) -> None:
        """See `Listener`."""
        now = time.monotonic()
        for event in events:
            self._dispatcher.event(worker, event, now)

    def worker_status(self, worker: str, snapshot: Any) -> None:
        """See `Listener`."""
        self._snapshots[worker] = snapshot

    def worker_lost(self, worker: str) -> None:
        """See `Listener`."""
        self._snapshots.pop(worker, None)
        self._dispatcher.worker_lost(worker, time.monotonic())

    def worker_loading(self, worker: str, loading: Loading) -> None:
        """See `Listener`."""
        if self._progress is not None and self.ready is None:
            self._progress(loading.what, loading.done, loading.total)

    # --- inside ---

    def _send(self, worker: str, command: Command) -> None:
        self._workers.send(worker, command)

    def _deliver(self, id: str, event: RequestEvent) -> None:
        stream = self._streams[id]
        stream.put(event)
        if self._observers:
            seconds = time.monotonic() - stream.arrived
            for observer in self._observers:
                observer(event, seconds)
        if not isinstance(event, Chunk):
            del self._streams[id]
            self._check_idle()

    def _check_idle(self) -> None:
        if self._idle and not self._streams:
            while self._idle:
                self._idle.popleft().set_result(None)

    def _tick(self) -> None:
        """End what is overdue, and come again when the next is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        due = self._dispatcher.tick(now)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(due - now, 0.0), self._tick)
