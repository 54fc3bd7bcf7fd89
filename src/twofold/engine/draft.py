"""The decoding seam: who guesses the next tokens that one forward pass then verifies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from twofold.engine.request import Request
from twofold.engine.totals import EngineTotals


class ModelledDrafts(Protocol):
    """Guesses where token ids are unknown: only their numbers, and how many turn out right.

    counters: what was done so far; most: guesses at once; runs_model: whether proposing charges the device.
    """

    counters: dict[str, int]
    most: int
    runs_model: bool

    @property
    def rate(self) -> float:
        """Share of decodes with guesses."""

    @property
    def drafted(self) -> float:
        """Mean guesses of these."""

    @property
    def accepted(self) -> float:
        """Mean right ones among them."""

    def propose(self, requests: Sequence[Request], limit: int) -> Sequence[int]:
        """How many guesses the next decode of each of `requests` has, at most `limit`."""

    def judge(self, request: Request, drafted: int) -> int:
        """How many of `drafted` guesses were right."""

    def forget(self, request: Request) -> None:
        """`request` has ended."""


class Drafter(Protocol):
    """Guesses continuations. Technique seam.

    counters: what it did so far, by name; at least one of them must move when it is on. most: guesses that it
    ever makes at once for a request. runs_model: whether proposing takes forward passes on the device, which
    are then a part of the step's time (see `engine.model_drafter`).
    """

    counters: dict[str, int]
    most: int
    runs_model: bool

    def propose(self, requests: Sequence[Request], limit: int) -> Sequence[Sequence[int]]:
        """For each of `requests`, up to `limit` guesses of the tokens that follow its newest one; none where
        it has no guess. All that decode in the next step are asked for together."""

    def observe(self, request: Request, drafted: int, accepted: int) -> None:
        """Of `drafted` guesses for `request`, the first `accepted` were right."""

    def forget(self, request: Request) -> None:
        """`request` has ended: drop what is kept about it."""

    def modelled(self, behaviour: Mapping[str, float]) -> ModelledDrafts:
        """What stands in for it on a modelled device, given its technique's data-dependent quantities."""

    def measured(self, totals: EngineTotals) -> dict[str, float]:
        """Its technique's data-dependent quantities as they turned out, beyond the rate and the mean lengths
        of drafts, which `totals` hold for every drafter."""


LONGER, SHORTER = 2, 1
"""Tokens by which the longest draft of a request grows where all of one was right, and shrinks where not: as
in transformers (`num_assistant_tokens_schedule="heuristic"` of `generation/candidate_generator.py`)."""


class TextDrafter:
    """Base of drafters that look at the text of one request at a time: subclasses `guess`.

    most: guesses at once, which a request begins with; verifying costs by the guess, so that it is asked for
    fewer while its drafts turn out wrong. counters: drafted and accepted tokens, of those verified. tried,
    right: by position in the draft, how often it was verified and how often accepted.
    """

    runs_model = False

    def __init__(self, most: int) -> None:
        self.most = most
        self.counters = {"lookups": 0, "hits": 0, "drafted": 0, "accepted": 0}
        self.tried = [0] * most
        self.right = [0] * most
        self._longest: dict[str | int, int] = {}

    def guess(self, request: Request, limit: int) -> Sequence[int]:
        """Up to `limit` guesses of the tokens that follow `request`'s newest one."""
        raise NotImplementedError

    def propose(self, requests: Sequence[Request], limit: int) -> list[Sequence[int]]:
        """The guess for each of `requests`."""
        longest = self._longest
        return [self.guess(r, min(limit, longest.get(r.id, self.most))) for r in requests]

    def observe(self, request: Request, drafted: int, accepted: int) -> None:
        """Of `drafted` guesses for `request`, the first `accepted` were right."""
        longest = self._longest.get(request.id, self.most)
        longest = longest + LONGER if accepted == drafted else longest - SHORTER
        self._longest[request.id] = max(1, min(longest, self.most))
        self.counters["drafted"] += drafted
        self.counters["accepted"] += accepted
        for position in range(drafted):
            self.tried[position] += 1
        for position in range(accepted):
            self.right[position] += 1

    def forget(self, request: Request) -> None:
        """`request` has ended."""
        self._longest.pop(request.id, None)

    def modelled(self, behaviour: Mapping[str, float]) -> ModelledDrafter:
        """Guesses by their recorded means."""
        rate, drafted, accepted = (behaviour[k] for k in ("draft_rate", "draft_length", "accepted_length"))
        return ModelledDrafter(rate, drafted, accepted, self.most)

    def measured(self, totals: EngineTotals) -> dict[str, float]:
        """Nothing beyond what the totals hold."""
        del totals
        return {}


GOLDEN = (5**0.5 - 1) / 2
"""Its multiples are spread evenly over the unit interval, however many there are."""


class ModelledDrafter:
    """Stands in for any drafter where token ids are unknown: spreads recorded means evenly over decodes (no
    randomness).

    rate: share of decode steps that have guesses; drafted: mean guesses where there are any; accepted: mean
    right ones among them; most: guesses at once. Requests begin at different points of the pattern, as what
    they have guesses for does not coincide.
    """

    runs_model = False

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

    def propose(self, requests: Sequence[Request], limit: int) -> list[int]:
        """How many guesses the next decode of each of `requests` has."""
        return [self._count(request, limit) for request in requests]

    def _count(self, request: Request, limit: int) -> int:
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
