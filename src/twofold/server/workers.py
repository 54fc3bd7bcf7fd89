"""Workers as the server sees them: started, watched, started again after a crash, stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from twofold.server.channel import Unpacker, pack
from twofold.server.messages import Broken, Command, Loading, Ready, RequestEvent, Status, Stop
from twofold.server.processes import Launch, WorkerProcess

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
"""Seconds before a crashed worker is started again: doubled with every crash, up to the longest."""
STEADY_SECONDS = 60.0
"""A worker that was up for so long is started again without delay."""
EXIT_SECONDS = 5.0
"""How long a process may take to leave after its last word, before it is killed."""


class WorkerFailedError(RuntimeError):
    """No worker could be started, for a reason that is not the plan's."""


class Listener(Protocol):
    """Who is told what the workers do. Every start of a worker has a name of its own."""

    def worker_up(self, worker: str, ready: Ready) -> None:
        """It takes jobs from now on."""

    def worker_events(self, worker: str, events: Sequence[RequestEvent]) -> None:
        """What it said about requests, in order."""

    def worker_status(self, worker: str, snapshot: Any) -> None:
        """What its engine is doing."""

    def worker_lost(self, worker: str) -> None:
        """It is gone with all it had (it may not have been up)."""

    def worker_loading(self, worker: str, loading: Loading) -> None:
        """How far it is."""


class _Worker(asyncio.Protocol):
    """One incarnation: a process (None until it is started), and the server's end of its socket."""

    def __init__(self, pool: Workers, replica: int, name: str) -> None:
        self.pool = pool
        self.replica = replica
        self.name = name
        self.process: WorkerProcess | None = None
        self.since: float | None = None
        self.broken: Broken | None = None
        self._unpacker = Unpacker()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        listener = self.pool.listener
        events: list[RequestEvent] = []
        for message in self._unpacker.feed(data):
            if isinstance(message, Status):
                if events:  # a report is of what was said before it, and comes after it
                    listener.worker_events(self.name, events)
                    events = []
                listener.worker_status(self.name, message.snapshot)
            elif isinstance(message, Ready):
                self.pool._is_up(self, message)
            elif isinstance(message, Loading):
                listener.worker_loading(self.name, message)
            elif isinstance(message, Broken):
                self.broken = message
            else:
                events.append(message)
        if events:
            listener.worker_events(self.name, events)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool._is_lost(self)

    def send(self, command: Command) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack([command]))


@dataclass(slots=True)
class _Replica:
    """A place for a worker: who is there now, how many were, and how many crashed in a row."""

    worker: _Worker | None = None
    starts: int = 0
    crashes: int = 0


class Workers:
    """`count` workers, started by `launch`. To be used from within one event loop."""

    def __init__(self, launch: Launch, count: int, listener: Listener) -> None:
        self.listener = listener
        self._launch = launch
        self._replicas = [_Replica() for _ in range(count)]
        self._by_name: dict[str, _Worker] = {}
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._first: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start all; returns once one is up. ValueError where the plan is bad, WorkerFailedError where every
        worker ended before it was up."""
        self._first = asyncio.get_running_loop().create_future()
        try:
            for number in range(len(self._replicas)):
                await self._start(number)
            await self._first
        except BaseException:
            await self.stop(0.0)
            raise

    def send(self, worker: str, command: Command) -> None:
        """Send a command; nothing happens where the worker has just gone (`worker_lost` tells)."""
        if (found := self._by_name.get(worker)) is not None:
            found.send(command)

    def pids(self) -> dict[str, int]:
        """Process ids of the workers by name."""
        return {name: process.pid for name, process in self._processes() if process.pid is not None}

    async def stop(self, timeout: float) -> None:
        """Have all leave once what they run has ended; those that are there after `timeout` seconds are
        killed."""
        self._stopping = True
        for worker in self._by_name.values():
            worker.send(Stop())
        processes = [process for _, process in self._processes()]
        for task in self._tasks:
            task.cancel()
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        for process in processes:
            await process.leave(end - loop.time())

    def _processes(self) -> list[tuple[str, WorkerProcess]]:
        return [(name, w.process) for name, w in self._by_name.items() if w.process is not None]

    # --- the life of one ---

    async def _start(self, number: int) -> None:
        replica = self._replicas[number]
        replica.starts += 1
        name = f"{number}" if replica.starts == 1 else f"{number}.{replica.starts}"
        worker = replica.worker = self._by_name[name] = _Worker(self, number, name)
        worker.process = await self._launch(name, worker)

    def _is_up(self, worker: _Worker, ready: Ready) -> None:
        worker.since = asyncio.get_running_loop().time()
        self.listener.worker_up(worker.name, ready)
        if self._first is not None and not self._first.done():
            self._first.set_result(None)

    def _is_lost(self, worker: _Worker) -> None:
        replica = self._replicas[worker.replica]
        replica.worker = None
        if self._stopping:
            return
        del self._by_name[worker.name]
        self.listener.worker_lost(worker.name)
        task = asyncio.get_running_loop().create_task(self._replace(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, worker: _Worker) -> None:
        """Say why it has gone, and put another in its place where that may help."""
        assert worker.process is not None
        await worker.process.leave(EXIT_SECONDS)
        replica, broken = self._replicas[worker.replica], worker.broken
        why = broken.message if broken is not None else worker.process.why()
        by_user = broken is not None and broken.by_user
        assert self._first is not None
        if not self._first.done() and not any(other.worker for other in self._replicas):
            self._first.set_exception(ValueError(why) if by_user else WorkerFailedError(why))
            return
        log.error("worker %s has gone: %s", worker.name, why)
        if by_user:
            return
        loop = asyncio.get_running_loop()
        steady = worker.since is not None and loop.time() - worker.since > STEADY_SECONDS
        replica.crashes = 0 if steady else replica.crashes + 1
        await asyncio.sleep(_delay(replica.crashes))
        await self._start(worker.replica)


def _delay(crashes: int) -> float:
    return 0.0 if not crashes else min(FIRST_DELAY * 2.0 ** (crashes - 1), LONGEST_DELAY)
