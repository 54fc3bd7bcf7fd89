"""The processes of workers, wherever they run, and how they are started on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Protocol

from twofold.plan import Plan
from twofold.server.worker import work


class WorkerProcess(Protocol):
    """A process that holds a worker."""

    @property
    def pid(self) -> int | None:
        """Its id on its machine, where that is known."""

    def is_alive(self) -> bool:
        """Whether it has not ended."""

    def why(self) -> str:
        """Why it has ended, for the log."""

    async def leave(self, timeout: float) -> None:
        """Wait until it has ended; after `timeout` seconds it is killed."""


Launch = Callable[[str, asyncio.Protocol], Awaitable[WorkerProcess]]
"""Starts a process for the worker of that name, and has the protocol talk to it."""


def here(plan: Plan) -> Launch:
    """Workers for `plan` on this machine, each at the other end of a socket pair."""

    async def launch(name: str, protocol: asyncio.Protocol) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        process = get_context("spawn").Process(
            target=work, args=(theirs, plan), name=f"twofold worker {name}"
        )
        process.start()
        theirs.close()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        return LocalProcess(process)

    return launch


class LocalProcess:
    """A child of this process."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def why(self) -> str:
        """See `WorkerProcess`."""
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"the worker process ended with exit code {code}"
        memory = " (the system does that where memory runs out)" if code == -9 else ""
        return f"the worker process was killed by signal {-code}{memory}"

    async def leave(self, timeout: float) -> None:
        """See `WorkerProcess`."""
        process, join = self._process, asyncio.get_running_loop().run_in_executor
        await join(None, process.join, max(timeout, 0.0))
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await join(None, process.join)
