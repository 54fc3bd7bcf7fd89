"""Sending: an open loop that waits for no answer, and a closed one of clients that each wait for theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from twofold.loadgen.client import Ask, Exchange

Send = Callable[[Ask, float, float], Awaitable[Exchange]]
"""Sends a request: (what, start of the load, when it should go), both in the clock's seconds."""


class Clock(Protocol):
    """Time as a load sees it."""

    def now(self) -> float:
        """Seconds since some moment."""

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass, and others run."""


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Seconds of the performance counter."""
        return time.perf_counter()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the event loop."""
        await asyncio.sleep(seconds)


async def open_loop(send: Send, asks: Iterable[Ask], clock: Clock) -> list[Exchange]:
    """Send each of `asks` at its time, however many are unanswered; returns when all have ended."""
    start = clock.now()
    sent = []
    for ask in asks:
        assert ask.at is not None, "an open loop needs times"
        await clock.sleep(max(0.0, start + ask.at - clock.now()))
        sent.append(asyncio.ensure_future(send(ask, start, start + ask.at)))
    return list(await asyncio.gather(*sent))


async def closed_loop(
    send: Send, asks: Sequence[Ask], clients: int, clock: Clock, duration: float | None = None
) -> list[Exchange]:
    """`clients` that each send the next of `asks` as soon as their last was answered, until none is left or
    `duration` seconds have passed."""
    start = clock.now()
    left = iter(asks)
    done: list[Exchange] = []

    async def client() -> None:
        while duration is None or clock.now() - start < duration:
            ask = next(left, None)
            if ask is None:
                return
            done.append(await send(ask, start, clock.now()))

    await asyncio.gather(*(client() for _ in range(clients)))
    return sorted(done, key=lambda exchange: exchange.sent)


class Lateness:
    """How late the event loop comes to what is due: an upper bound for errors of the times that it took.

    An async context manager that looks every `every` seconds; `seen` are the delays in seconds.
    """

    def __init__(self, clock: Clock, every: float = 0.05) -> None:
        self._clock, self._every = clock, every
        self.seen: list[float] = []

    async def _watch(self) -> None:
        while True:
            before = self._clock.now()
            await self._clock.sleep(self._every)
            self.seen.append(max(0.0, self._clock.now() - before - self._every))

    async def __aenter__(self) -> Lateness:
        self._task = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
