"""Priorities that change while requests run, as a service changes them that treats its users fairly.

Every `period` steps each request draws a new place in the order: at random, or, where recent service makes
further service likely (Markov), only with some probability. Source: FastSwitch (arXiv:2411.18424, section 4),
which replays such priorities, since no trace of real ones is public. Draws depend on seed, turn and id alone.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from twofold.engine.policy import Mixed
from twofold.engine.request import Request

Pattern = Literal["markov", "random"]
KEEP = 0.8
"""Probability with which a request keeps its place under the Markov pattern. Assumed: the source gives no
figure."""


class FairOrder(Mixed):
    """Ranks every request anew each `period` steps.

    counters: draws, and how many of them changed a request's place.
    """

    name = "fair-order"

    def __init__(self, period: int, pattern: Pattern, seed: int) -> None:
        super().__init__()
        self.period = period
        self.pattern, self.seed = pattern, seed
        self.counters = {"draws": 0, "changes": 0}
        self._places: dict[str | int, tuple[int, float]] = {}

    def rank(self, request: Request) -> float:
        """A place from 0 to 1, drawn again each time that it is asked for."""
        turn, place = self._places.get(request.id, (-1, 0.0))
        draw = Random(f"{self.seed}/{request.id}/{turn + 1}")
        self.counters["draws"] += 1
        if turn < 0 or self.pattern == "random" or draw.random() >= KEEP:
            place = draw.random()
            self.counters["changes"] += turn >= 0
        self._places[request.id] = turn + 1, place
        return place

    def forget(self, request: Request) -> None:
        """`request` has ended."""
        self._places.pop(request.id, None)
