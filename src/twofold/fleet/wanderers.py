"""Wanderers: a policy that moves requests at random, for simulations and tests."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from twofold.fleet.policy import Arrival, Member, Move, Onward, Stages


class Wanderers:
    """A FleetPolicy that moves requests at random. rate: how often each is moved, per look; onward: the share
    of them that is known to go on elsewhere once their prompt is computed."""

    name = "wanderers"

    def __init__(
        self,
        instances: int,
        seed: int,
        stages: Stages | None = None,
        rate: float = 0.1,
        onward: float = 0.0,
    ) -> None:
        self.devices: Sequence[str | None] = [None] * instances
        self.stages = stages
        self.rate, self.onward = rate, onward
        self.rng = Random(seed)
        self.counters: dict[str, int] = {"arrived": 0, "given_up": 0}
        self._onward: dict[str | int, Onward] = {}

    def dispatch(self, request: Arrival, members: Sequence[Member]) -> int:
        """Anywhere."""
        number = self.rng.randrange(len(members))
        if self.rng.random() < self.onward:
            self._onward[request.id] = Onward(self._other(number, members), self.rng.choice([0, 20]))
        return number

    def goes_on(self, id: str | int) -> Onward | None:
        """As was drawn for it."""
        return self._onward.get(id)

    def moves(self, members: Sequence[Member], now: float) -> list[Move]:
        """Those that go on elsewhere, and some of the others that generate, to anywhere else."""
        del now
        found = []
        for number, member in enumerate(members):
            for resident in member.decoding:
                onward = self._onward.pop(resident.id, None)
                if onward is not None and onward.target != number:
                    found.append(Move(resident.id, number, onward.target))
                elif self.rng.random() < self.rate:
                    found.append(Move(resident.id, number, self._other(number, members)))
        return found

    def moved(self, move: Move, arrived: bool) -> None:
        """Count it."""
        self.counters["arrived" if arrived else "given_up"] += 1

    def ended(self, id: str | int) -> None:
        """Forget it."""
        self._onward.pop(id, None)

    def _other(self, number: int, members: Sequence[Member]) -> int:
        return (number + self.rng.randrange(1, len(members))) % len(members)
