"""What a simulated scheduler may have besides: ranks that change, caches swapped in groups, beside the steps,
their copies kept."""

from __future__ import annotations

from random import Random

from twofold.engine.policy import Mixed
from twofold.engine.request import Request
from twofold.engine.swapping import PLAIN_SWAPPING, Swapping


class Restless(Mixed):
    """Ranks every request anew each `period` steps, at random."""

    name = "restless"

    def __init__(self, period: int, seed: int) -> None:
        super().__init__()
        self.period = period
        self._rng = Random(seed)

    def rank(self, request: Request) -> float:
        """Anything."""
        del request
        return self._rng.random()


def random_swapping(rng: Random) -> Swapping:
    """Plain swapping, or any mixture of the others."""
    if rng.random() < 0.4:
        return PLAIN_SWAPPING
    return Swapping(rng.choice([0, 1, 3, 8]), rng.random() < 0.6, rng.random() < 0.6)


def restless(rng: Random) -> Restless | None:
    """Sometimes a policy whose ranks change."""
    return Restless(rng.choice([16, 64]), rng.randrange(1 << 30)) if rng.random() < 0.3 else None
