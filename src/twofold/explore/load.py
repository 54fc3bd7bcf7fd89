"""What goes into an estimate and what comes out: the requests, and the figures of a deployment under them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """The requests: mean tokens of prompt and output, how many there are (None: four for each that is kept
    going), and the rate of a trace."""

    prompt: int
    output: int
    requests: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Figures of a whole deployment. ttft, tpot: seconds by statistic ("mean", "p90" …); e2e: mean seconds of
    a request; joules: per generated token; memory: bytes per device; running: requests that decode at a time,
    per replica; keeps_up: whether the load can be served at all."""

    tokens_per_s: float
    ttft: dict[str, float]
    tpot: dict[str, float]
    e2e: float
    joules: float
    memory: int
    running: float
    keeps_up: bool = True
