"""What a suite of microbenchmarks measured on a device: kept in its file beside the figures that predictions
use, for people and for checks."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from twofold.devices.figures import Strict


class Reading(NamedTuple):
    """One figure: the benchmark, the case (sizes, threads, precision), the value in `unit` ("B/s", "FLOP/s",
    "s", "op/s")."""

    bench: str
    case: str
    value: float
    unit: str


class Microbenchmarks(Strict):
    """All readings of one run of the suite, in the order measured. missing: why a benchmark has none."""

    source: str
    readings: list[Reading]
    missing: dict[str, str] = Field(default_factory=dict)

    def best(self, bench: str) -> Reading | None:
        """The highest reading of a benchmark; None where it has none."""
        return max((r for r in self.readings if r.bench == bench), key=lambda r: r.value, default=None)
