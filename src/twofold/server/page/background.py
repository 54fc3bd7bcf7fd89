"""One process beside the server for work that would hold the interpreter's lock while answers stream:
predictions, plots, the results database."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from types import FrameType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOST_WAITING = 32
NICENESS = 19
"""Answers come before plots: the process takes what the engines leave."""


class BusyError(Exception):
    """More is waiting than will be done soon."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call, and where its outcome goes."""

    work: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def settle(self, value: Any, error: BaseException | None) -> None:
        """In the loop's own thread."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(error)


class Background:
    """Calls functions in a process of its own, one after the other. It starts with the first call, is
    replaced where it dies, and neither it nor the thread that waits for it outlives the server.

    limit: seconds of the processor that one call may take.
    """

    def __init__(self, limit: float = 20.0) -> None:
        self.limit = limit
        self._asked: SimpleQueue[_Asked | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(…)`, a function of a module with arguments that can be pickled. What it raises is raised
        here; ValueError where it takes too long, BusyError where too much is waiting. A call that is
        cancelled before its turn is left out."""
        if self._waiting >= MOST_WAITING:
            raise BusyError("many predictions are waiting already; try again in a moment")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting += 1
        self._asked.put(_Asked((function, args, kwargs), loop, future))
        try:
            return await future
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the process once it has finished the calls that were made."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread = None

    def _run(self) -> None:
        helper = _Helper(self.limit)
        while (asked := self._asked.get()) is not None:
            if asked.future.cancelled():
                continue
            value, error = helper.outcome(asked.work)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                asked.loop.call_soon_threadsafe(asked.settle, value, error)
        helper.end()


class _Helper:
    """The process and the pipe to it."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None

    def outcome(self, work: Any) -> tuple[Any, BaseException | None]:
        """What `work` returned, or what it raised. Once more where the process died of it."""
        for last in (False, True):
            try:
                pipe = self._pipe or self._start()
                pipe.send(work)
                value, error = pipe.recv()
                return value, error
            except (EOFError, OSError) as error:
                self.end()
                if last:
                    return None, RuntimeError(f"the process for predictions died twice: {error!r}")
            except Exception as error:  # the call itself cannot be pickled
                return None, error
        raise AssertionError("the loop returns")

    def end(self) -> None:
        """Stop the process."""
        if self._process is not None and self._pipe is not None:
            self._pipe.close()
            self._process.terminate()
            self._process.join()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._limit, NICENESS), daemon=True)
        self._process.start()
        other.close()
        return self._pipe


def _serve(pipe: Connection, limit: float, niceness: int) -> None:
    """In the process: do what comes, until the server goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupts are the server's
    os.nice(niceness)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch once it is imported here
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, args, kwargs = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = (_limited(limit, function, *args, **kwargs), None)
            except Exception as error:
                answer = (None, error)
            pipe.send(answer)


def _limited(limit: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    def late(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        raise ValueError(f"this takes more than {limit:g} s; make the load smaller")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        return function(*args, **kwargs)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
