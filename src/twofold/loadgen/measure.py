"""From exchanges to figures: latencies, throughput, goodput, lag. Pure sums over given times."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from twofold.errors import nearest
from twofold.loadgen.client import REFUSED, Exchange

LatencyName = Literal["ttft", "tpot", "itl", "e2e"]
LATENCIES: tuple[LatencyName, ...] = ("ttft", "tpot", "itl", "e2e")


@dataclass(frozen=True, slots=True)
class Summary:
    """`count` values in seconds: their mean and percentiles."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary | None:
        """None where there are no values. Percentiles are values that occurred (nearest rank), as in results
        of `run` and `predict`."""
        if not values:
            return None
        ordered = sorted(values)
        last = len(ordered) - 1
        at = (ordered[round(share * last)] for share in (0.5, 0.9, 0.99))
        return cls(len(ordered), math.fsum(ordered) / len(ordered), *at)


def latency(name: str, exchange: Exchange) -> float | None:
    """Seconds of a complete answer, from when the request was really sent: to the first text (ttft), per
    further token (tpot), to the last byte of text (e2e). None where it has none of that kind."""
    pieces = exchange.pieces
    if exchange.error is not None or not pieces:
        return None
    if name == "e2e":
        return pieces[-1] - exchange.sent
    if len(pieces) < 2 and exchange.output_tokens > 1:
        return None  # not streamed: when its first token was there is not known
    if name == "ttft":
        return pieces[0] - exchange.sent
    assert name == "tpot", name
    further = exchange.output_tokens - 1
    return (pieces[-1] - pieces[0]) / further if further > 0 else None


@dataclass(frozen=True, slots=True)
class Objective:
    """A service-level objective: the most seconds that each latency of a good request takes."""

    limits: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> Objective:
        """From `ttft=500ms,tpot=50ms`. ValueError for other names or for what is no time."""
        from twofold.devices.figures import parse_quantity

        limits: dict[str, float] = {}
        names = ("ttft", "tpot", "e2e")
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = item.partition("=")
            if not equals or name.strip() not in names:
                raise ValueError(f"--slo {item!r}: write NAME=TIME; {nearest(name.strip(), names)}")
            limits[name.strip()] = seconds = parse_quantity(value, "s")
            if not seconds > 0:
                raise ValueError(f"--slo {item!r}: a limit is above 0 seconds")
        if not limits:
            raise ValueError("--slo is empty; write ttft=500ms,tpot=50ms")
        return cls(limits)

    def met(self, exchange: Exchange) -> bool:
        """Whether the answer is complete and within every limit. A limit on time per further token says
        nothing about an answer of one token."""
        if exchange.error is not None:
            return False
        for name, limit in self.limits.items():
            seconds = latency(name, exchange)
            if seconds is None:
                if name == "tpot" and exchange.output_tokens <= 1:
                    continue
                return False
            if seconds > limit:
                return False
        return True

    def __str__(self) -> str:
        from twofold.report.units import seconds

        return ", ".join(f"{name.upper()} ≤ {seconds(limit)}" for name, limit in self.limits.items())


@dataclass(frozen=True, slots=True)
class Generator:
    """What the load generator did itself. cpu: processor seconds over the run; late: delays of its event
    loop in seconds."""

    cpu: float
    late: Summary | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one load.

    sent, completed: requests; errors: number by kind; messages: what the first of each kind said; seconds:
    from the first sending to the last text; tokens: of complete answers; short: how many of these are shorter
    than asked for. concurrency: requests in flight, mean over those seconds and peak. lag: real minus
    intended times of sending. piece_tokens: tokens per piece of text (ITL is between pieces). counted: who
    counted tokens. cached: share of prompt tokens that the server had in its prefix cache. good: requests
    that met the objective.
    """

    sent: int
    completed: int
    errors: dict[str, int]
    messages: dict[str, str]
    seconds: float
    prompt_tokens: int | None
    output_tokens: int
    short: int
    latencies: dict[LatencyName, Summary]
    concurrency_mean: float
    concurrency_peak: int
    lag: Summary | None
    piece_tokens: float | None
    counted: str
    cached: float | None
    good: int | None
    generator: Generator

    @property
    def refused(self) -> int:
        """Requests that a full server did not take (429)."""
        return self.errors.get(REFUSED, 0)

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.output_tokens / self.seconds if self.seconds else 0.0

    @property
    def requests_per_s(self) -> float:
        """Complete answers per second."""
        return self.completed / self.seconds if self.seconds else 0.0

    @property
    def goodput(self) -> float | None:
        """Requests per second that met the objective; None without one."""
        return None if self.good is None or not self.seconds else self.good / self.seconds

    def record(self) -> dict[str, Any]:
        """Everything as JSON holds it; times in seconds."""
        rates = ("tokens_per_s", "requests_per_s", "goodput", "refused")
        return {**asdict(self), **{name: getattr(self, name) for name in rates}}


def measure(
    exchanges: Sequence[Exchange], generator: Generator, objective: Objective | None = None
) -> Measured:
    """The figures of all `exchanges` of one load."""
    assert exchanges, "nothing was sent"
    good = [x for x in exchanges if x.error is None]
    errors = [x for x in exchanges if x.error is not None]
    values: dict[LatencyName, list[float]] = {"itl": [b - a for x in good for a, b in pairwise(x.pieces)]}
    for name in ("ttft", "tpot", "e2e"):
        values[name] = [v for x in good if (v := latency(name, x)) is not None]
    first = min(x.sent for x in exchanges)
    last = max((x.pieces[-1] for x in good), default=max(x.ended for x in exchanges))
    prompts = [x.prompt_tokens for x in good]
    cached = [x.cached_tokens for x in good]
    output = sum(x.output_tokens for x in good)
    pieces = sum(len(x.pieces) for x in good)
    known = [n for n in prompts if n is not None]
    return Measured(
        sent=len(exchanges),
        completed=len(good),
        errors=dict(Counter(x.error or "" for x in errors)),
        messages={x.error or "": x.message for x in reversed(errors)},
        seconds=last - first,
        prompt_tokens=sum(known) if good and len(known) == len(prompts) else None,
        output_tokens=output,
        short=sum(x.output_tokens < x.ask.max_tokens for x in good),
        latencies={name: s for name in LATENCIES if (s := Summary.of(values[name])) is not None},
        concurrency_mean=sum(x.ended - x.sent for x in exchanges) / (last - first) if last > first else 0.0,
        concurrency_peak=_peak(exchanges),
        lag=Summary.of([max(0.0, x.sent - x.intended) for x in exchanges]),
        piece_tokens=output / pieces if values["itl"] else None,
        counted=" and ".join(sorted({x.counted for x in good})) or "nobody",
        cached=sum(n or 0 for n in cached) / sum(known)
        if known and any(n is not None for n in cached)
        else None,
        good=None if objective is None else sum(map(objective.met, exchanges)),
        generator=generator,
    )


def _peak(exchanges: Sequence[Exchange]) -> int:
    """Most requests in flight at one time; one that ends as another begins is no overlap."""
    changes = sorted([(x.sent, 1) for x in exchanges] + [(x.ended, -1) for x in exchanges])
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak
