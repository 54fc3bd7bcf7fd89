"""The STREAM benchmark: bandwidth of copy, scale, add and triad over three arrays, by its rules for counting
bytes and choosing the best of several runs.

Source of the rules: J. McCalpin, "Memory bandwidth and machine balance in current high performance
computers", IEEE TCCA newsletter, 1995, and the reference implementation (stream.c 5.10). Elements are
float32, which the reference allows (STREAM_TYPE), since the engine computes in it.

Each kernel comes in three ways: `plain` loops, `abstract` (the vectors and sweep that the engine's ops are
written with) and `streamed` (abstract, with stores past the caches). They are run in turn, so that a change
of the machine's speed meets all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from twofold.kernels.cpu import extension, native, why_missing
from twofold.kernels.cpu.threads import default_threads
from twofold.measure.caches import last_cache_bytes

ARRAYS = ("a", "b", "c")
ARRAYS_MOVED = {"copy": 2, "scale": 2, "add": 3, "triad": 3}
"""Arrays read or written by each kernel. What a cache reads before it is overwritten is not counted."""

WAYS = ("plain", "abstract", "streamed")
ELEMENT = 4
TOLERANCE = 1e-6
"""Largest relative error that the reference allows in single precision."""

LEAST_PASS_SECONDS = 2e-5
"""Runs are repeated within one timing until they take this long, so that the clock does not show."""


@dataclass(frozen=True)
class StreamResult:
    """Timings of one kernel in one way. seconds: of each run but the first; array_bytes: of one array."""

    kernel: str
    way: str
    threads: int
    array_bytes: int
    seconds: tuple[float, ...]

    @property
    def bytes_moved(self) -> int:
        """Bytes that one run counts."""
        return ARRAYS_MOVED[self.kernel] * self.array_bytes

    @property
    def best_rate(self) -> float:
        """Bytes/s of the fastest run."""
        return self.bytes_moved / min(self.seconds)

    def record(self) -> dict[str, Any]:
        """The figures for JSON."""
        return {
            "kernel": self.kernel,
            "way": self.way,
            "threads": self.threads,
            "array_bytes": self.array_bytes,
            "best_bytes_per_s": self.best_rate,
            "seconds": {
                "mean": fsum(self.seconds) / len(self.seconds),
                "min": min(self.seconds),
                "max": max(self.seconds),
            },
        }


class WrongResultError(RuntimeError):
    """A kernel computed something else than it should."""


def default_array_bytes() -> int:
    """Bytes of one array by the reference's rule: four times the last cache; 64 MiB where that is unknown."""
    return 4 * last_cache_bytes() or 64 << 20


def stream(
    array_bytes: int,
    *,
    threads: int | None = None,
    repeats: int = 10,
    ways: Sequence[str] = WAYS,
    kernels: Sequence[str] = tuple(ARRAYS_MOVED),
) -> list[StreamResult]:
    """Run the kernels in the given ways on arrays of about `array_bytes` with `threads` (default: those of
    the engine), `repeats` times in turn after one that is not counted.

    Ways that the instruction set lacks are left out. ValueError where the native kernels are missing or a
    size makes no sense; WrongResultError where the arrays do not hold what they should.
    """
    if native() is None:
        raise ValueError(why_missing())
    count = array_bytes // ELEMENT
    if count < 1 or repeats < 1:
        raise ValueError(
            f"arrays of {array_bytes} bytes, {repeats} repeats: both must be at least one element, one run"
        )
    module = extension()
    team = module.Stream(threads or default_threads())
    arrays = module.StreamArrays(team, count)
    if module.isa() == "scalar":
        ways = [way for way in ways if way != "streamed"]
    passes = 1
    while arrays.run("triad", ways[0], passes) < LEAST_PASS_SECONDS:
        passes *= 2
    seconds: dict[tuple[str, str], list[float]] = {(k, w): [] for k in kernels for w in ways}
    for turn in range(repeats + 1):
        for way in ways:
            for kernel in kernels:
                taken = arrays.run(kernel, way, passes) / passes
                if turn:
                    seconds[kernel, way].append(taken)
    if (error := arrays.error()) > TOLERANCE:
        raise WrongResultError(
            f"an array is off by {error:.1e} after the runs; at most {TOLERANCE:.0e} is allowed"
        )
    return [
        StreamResult(kernel, way, team.threads, count * ELEMENT, tuple(times))
        for (kernel, way), times in seconds.items()
    ]


def abstraction_ratio(results: Sequence[StreamResult]) -> float:
    """How fast the abstraction is over the plain loop: geometric mean over the kernels of the ratio of their
    best rates."""
    rates = {(r.kernel, r.way): r.best_rate for r in results}
    product = 1.0
    kernels = [kernel for kernel, way in rates if way == "plain"]
    for kernel in kernels:
        product *= rates[kernel, "abstract"] / rates[kernel, "plain"]
    return float(product ** (1 / len(kernels)))
