"""The decoding seam: who guesses the next tokens that one forward pass then verifies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twofold.engine.request import Request


class Drafter(Protocol):
    """Guesses continuations. Technique seam.

    counters: what it did so far, by name; at least one of them must move when it is on. most: guesses that it
    ever makes at once for a request.
    """

    counters: dict[str, int]
    most: int

    def propose(self, request: Request, limit: int) -> Sequence[int]:
        """Up to `limit` guesses of the tokens that follow `request`'s newest one; none where it has no
        guess."""

    def observe(self, request: Request, drafted: int, accepted: int) -> None:
        """Of `drafted` guesses for `request`, the first `accepted` were right."""

    def forget(self, request: Request) -> None:
        """`request` has ended: drop what is kept about it."""


GOLDEN = (5**0.5 - 1) / 2
"""Its multiples are spread evenly over the unit interval, however many there are."""


class ModelledDrafter:
    """Stands in for any drafter where token ids are unknown: spreads recorded means evenly over decodes (no
    randomness).

    rate: share of decode steps that have guesses; drafted: mean guesses where there are any; accepted: mean
    right ones among them; most: guesses at once. Requests begin at different points of the pattern, as what
    they have guesses for does not coincide.
    """

    def __init__(self, rate: float, drafted: float, accepted: float, most: int) -> None:
        if not 0 <= rate <= 1 or drafted < 0 or not 0 <= accepted <= drafted:
            raise ValueError(
                f"drafting behaviour needs 0 <= rate <= 1 and 0 <= accepted <= drafted, "
                f"not rate={rate}, drafted={drafted}, accepted={accepted}"
            )
        self.rate, self.drafted, self.accepted = rate, drafted, accepted
        self.most = most
        self._requests = 0
        self.counters = {"proposals": 0, "drafted": 0, "accepted": 0}
        self._due: dict[str | int, list[float]] = {}

    def propose(self, request: Request, limit: int) -> int:
        """How many guesses this decode has."""
        due = self._due.get(request.id)
        if due is None:
            self._requests += 1
            due = self._due[request.id] = [self._requests * GOLDEN % 1.0, 0.0, 0.0]
        due[0] += self.rate
        if due[0] < 1.0 - 1e-9:
            return 0
        due[0] -= 1.0
        due[1] += self.drafted
        count = min(limit, self.most, int(due[1]))
        due[1] -= count
        self.counters["proposals"] += 1
        self.counters["drafted"] += count
        return count

    def judge(self, request: Request, drafted: int) -> int:
        """How many of `drafted` guesses were right."""
        if not drafted:
            return 0
        due = self._due[request.id]
        due[2] += self.accepted
        count = min(drafted, int(due[2]))
        due[2] -= count
        self.counters["accepted"] += count
        return count

    def forget(self, request: Request) -> None:
        """`request` has ended."""
        self._due.pop(request.id, None)
