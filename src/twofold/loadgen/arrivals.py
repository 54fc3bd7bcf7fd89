"""When requests are sent in an open loop: at a rate, or as a trace says. Everything random comes from a
seed."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from twofold.errors import nearest

Process = Literal["poisson", "constant", "gamma"]
PROCESSES: tuple[Process, ...] = ("poisson", "constant", "gamma")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests at `rate` per second on average.

    poisson: independent users; constant: one every 1/rate seconds; gamma: gaps from a gamma distribution of
    shape `burstiness` (below 1 they come in bursts, 1 is Poisson, above 1 they become regular).
    """

    rate: float
    process: Process = "poisson"
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"a rate must be above 0 requests per second, not {self.rate}")
        if self.process not in PROCESSES:
            raise ValueError(f"unknown arrivals {self.process!r}; {nearest(self.process, PROCESSES)}")
        if not (math.isfinite(self.burstiness) and self.burstiness > 0):
            raise ValueError(f"burstiness must be above 0, not {self.burstiness}")
        if self.burstiness != 1 and self.process != "gamma":
            raise ValueError(f"burstiness shapes gamma arrivals, not {self.process} ones; choose gamma")

    def times(self, seed: int) -> Iterator[float]:
        """Seconds after the start, without end; the first is 0. Poisson ones are those that the workload of a
        plan with this rate and seed has."""
        rng = random.Random(seed)
        return itertools.accumulate((self._gap(rng) for _ in itertools.count()), initial=0.0)

    def _gap(self, rng: random.Random) -> float:
        if self.process == "constant":
            return 1 / self.rate
        if self.process == "gamma":
            return rng.gammavariate(self.burstiness, 1 / (self.rate * self.burstiness))
        return rng.expovariate(self.rate)

    def __str__(self) -> str:
        how = f"gamma {self.burstiness:g}" if self.process == "gamma" else self.process
        return f"{self.rate:g} requests/s ({how})"
