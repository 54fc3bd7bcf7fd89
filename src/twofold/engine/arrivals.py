"""Who sends a request when, and when the engine sees it: the clients of a workload."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from twofold.engine.host import Host
from twofold.engine.request import Request, SamplingParams

Prompt = str | Sequence[int] | int
"""Text, token ids, or (in predictions) a number of tokens."""
Item = tuple[float, Prompt, SamplingParams]
"""Arrival in seconds after the start, prompt, parameters."""


class Arrivals:
    """Requests in order: each sent at its time after `start`, or, with `concurrency`, by so many clients that
    keep one request going each. host: takes its time to let them in."""

    def __init__(
        self, items: Iterable[Item], start: float, concurrency: int | None, host: Host | None
    ) -> None:
        self._source = iter(items)
        self._next = next(self._source, None)
        self._start = start
        self._closed = concurrency is not None
        self._free = deque([start] * (concurrency or 0))
        self._host = host
        self._sent: deque[tuple[float, Item]] = deque()

    @property
    def pending(self) -> bool:
        """Whether a request is still to come."""
        return self._next is not None or bool(self._sent)

    def seen(self, now: float, horizon: float) -> Iterator[Item]:
        """Requests sent by `now` that the engine sees by `horizon`, with the time at which each was sent."""
        while (sent := self._sending()) <= now:
            assert self._next is not None
            if self._closed:
                self._free.popleft()
            _, prompt, params = self._next
            visible = sent if self._host is None else self._host.receive(sent, _length(prompt))
            self._sent.append((visible, (sent, prompt, params)))
            self._next = next(self._source, None)
        while self._sent and self._sent[0][0] <= horizon:
            yield self._sent.popleft()[1]

    def next_time(self) -> float:
        """Before this moment the engine sees nothing new; infinite where that depends on a request ending."""
        return min(self._sending(), self._sent[0][0] if self._sent else math.inf)

    def ended(self, request: Request, now: float) -> None:
        """`request` has ended: its client may send another once it has the last token."""
        if self._closed:
            self._free.append(max(now, request.last_token_time or now))

    def _sending(self) -> float:
        """When the next request is sent, as far as that is known."""
        if self._next is None:
            return math.inf
        if self._closed:
            return self._free[0] if self._free else math.inf
        return self._start + self._next[0]


def _length(prompt: Prompt) -> int:
    """Tokens of a prompt that is not text: predictions get no other."""
    assert not isinstance(prompt, str)
    return prompt if isinstance(prompt, int) else len(prompt)
