"""Virtual time for the simulation: a timeline of calls to come, and pipes that take their time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Timeline:
    """Calls in order of their moments; those of the same moment in the order in which they were asked for.

    now: seconds; num_events: calls made so far.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.num_events = 0
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._next = 0

    def at(self, moment: float, call: Callable[..., None], *arguments: Any) -> None:
        """Make `call` at `moment`, which has not passed."""
        assert moment >= self.now, f"{moment} has passed: it is {self.now}"
        heappush(self._calls, (moment, self._next, call, arguments))
        self._next += 1

    def after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        """Make `call` in `seconds`."""
        self.at(self.now + seconds, call, *arguments)

    def step(self) -> bool:
        """Make the next call. False where there is none."""
        if not self._calls:
            return False
        self.now, _, call, arguments = heappop(self._calls)
        self.num_events += 1
        call(*arguments)
        return True


class Pipe(Generic[T]):
    """Messages arrive in the order in which they were sent, each within `delay` seconds. num_under_way: sent
    and not arrived; broken: what has not arrived never will."""

    def __init__(self, timeline: Timeline, rng: Random, delay: float, receive: Callable[[T], None]) -> None:
        self._timeline = timeline
        self._rng = rng
        self._delay = delay
        self._receive = receive
        self._last = 0.0
        self.num_under_way = 0
        self.broken = False

    def send(self, message: T) -> None:
        """Put in a message."""
        arrival = self._timeline.now + self._rng.random() * self._delay
        self._last = max(self._last, arrival)
        self.num_under_way += 1
        self._timeline.at(self._last, self._arrive, message)

    def _arrive(self, message: T) -> None:
        self.num_under_way -= 1
        if not self.broken:
            self._receive(message)
