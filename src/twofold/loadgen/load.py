"""What is asked of a server: how many requests, how long, and when."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from twofold.loadgen.arrivals import Arrivals
from twofold.loadgen.lengths import Lengths

OPEN_SECONDS = 30.0
"""How long an open loop sends where neither a number of requests nor a duration is given."""

FEWEST = 16
"""Requests at least, where their number is not given: fewer say little."""


class Wanted(NamedTuple):
    """A request before it has a text: seconds after the start (None: when a client is free), tokens of
    prompt and answer."""

    at: float | None
    prompt: int
    output: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load; exactly one of concurrency, arrivals and trace says when requests are sent.

    concurrency: clients that each send their next request when the last was answered (closed loop);
    arrivals, trace: times that no answer can delay (open loop); speed_up: how many times as fast a trace is
    played. requests: how many at most (None: as many as fit into `duration` or, without one, a number that
    follows from the load); duration: seconds after which nothing more is sent. prompts: texts to send instead
    of synthetic ones of `prompt` tokens. shared_prefix: share of each synthetic prompt that all have in
    common.
    """

    concurrency: int | None = None
    arrivals: Arrivals | None = None
    trace: Path | None = None
    speed_up: float = 1.0
    requests: int | None = None
    duration: float | None = None
    prompt: Lengths = field(default_factory=lambda: Lengths("uniform", 256, 256))
    output: Lengths = field(default_factory=lambda: Lengths("uniform", 64, 64))
    prompts: tuple[str, ...] = ()
    shared_prefix: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        given = [n for n in ("concurrency", "arrivals", "trace") if getattr(self, n) is not None]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"a load has a concurrency, a rate or a trace; {said}")
        for name, least in (("concurrency", 1), ("requests", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if self.duration is not None and not (math.isfinite(self.duration) and self.duration > 0):
            raise ValueError(f"duration must be above 0 seconds, not {self.duration}")
        if not (math.isfinite(self.speed_up) and self.speed_up > 0):
            raise ValueError(f"speed-up must be above 0, not {self.speed_up}")
        if self.speed_up != 1 and self.trace is None:
            raise ValueError("speed-up plays a trace faster, and there is none; change the rate instead")
        if not 0 <= self.shared_prefix <= 1:
            raise ValueError(f"shared prefix is a share of the prompt from 0 to 1, not {self.shared_prefix}")
        if self.prompts and self.trace is not None:
            raise ValueError("a trace has its own lengths; drop the prompts, or give a rate instead")
        if self.prompts and self.shared_prefix:
            raise ValueError("prompts of a file are sent as they are; drop the shared prefix")

    @property
    def count(self) -> int | None:
        """Requests at most; None: as many as arrive in time."""
        if self.requests is not None or self.trace is not None:
            return self.requests
        if self.concurrency is not None:
            # A closed loop with a duration takes its texts from a stock, for making them takes time too.
            return max(FEWEST, (64 if self.duration else 8) * self.concurrency)
        return None

    def schedule(self) -> list[Wanted]:
        """The requests in order of sending. ValueError where a trace cannot be read or nothing arrives."""
        if self.trace is not None:
            from twofold.workloads.workload import read_trace

            rows = [Wanted(t / self.speed_up, p, o) for t, p, o in read_trace(self.trace, self.count)]
            return [row for row in rows if self.duration is None or (row.at or 0.0) <= self.duration]
        rng = random.Random(f"lengths {self.seed}")
        return [Wanted(at, self.prompt.draw(rng), self.output.draw(rng)) for at in self._times()]

    def _times(self) -> list[float | None]:
        if self.arrivals is None:
            return [None] * (self.count or 0)
        times: Iterator[float] = itertools.islice(self.arrivals.times(self.seed), self.count)
        if self.count is None or self.duration is not None:
            last = self.duration or max(OPEN_SECONDS, FEWEST / self.arrivals.rate)
            times = itertools.takewhile(lambda at: at <= last, times)
        return list(times)

    def __str__(self) -> str:
        lengths = f"{self.prompt} + {self.output} tokens"
        if self.prompts:
            lengths = f"{len(self.prompts)} texts, {self.output} tokens each"
        if self.trace is not None:
            faster = f", {self.speed_up:g}× as fast" if self.speed_up != 1 else ""
            return f"trace {self.trace.name}{faster}"
        shared = f", {self.shared_prefix:.0%} of the prompt shared" if self.shared_prefix else ""
        when = f"{self.concurrency} at a time" if self.concurrency else str(self.arrivals)
        return f"{lengths}{shared}, {when}"
