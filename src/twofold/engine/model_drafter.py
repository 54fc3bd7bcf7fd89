"""Drafters that run a model: their turns, how much of what they guess is right, what they hold.

How many guesses a request gets follows from lengths alone; how many of them are right is known only from
data. A modelled device is charged for the same passes, and is told the acceptance rate α of arXiv:2211.17192:
the probability that a guess is right if all before it were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twofold.engine.active import Active
from twofold.engine.draft_kit import DraftKit
from twofold.engine.draft_model import DraftModel
from twofold.engine.memory import Held
from twofold.engine.request import Request
from twofold.engine.totals import EngineTotals
from twofold.models.cache import CacheSize


def mean_accepted(rate: float, length: float) -> float:
    """Mean right guesses of `length`, the first ones, where each is right with probability `rate` if all
    before it were: α + α² + … + α^length (arXiv:2211.17192, equation 1, less the model's own token)."""
    if rate >= 1.0:
        return length
    return rate * float(1.0 - rate**length) / (1.0 - rate)


def acceptance_rate(accepted: float, length: float) -> float:
    """The α with which `accepted` of `length` guesses are right on average, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_accepted(middle, length) < accepted else (low, middle)
    return (low + high) / 2


class Spread:
    """Means as whole numbers: what is due to each request adds up, without randomness."""

    def __init__(self) -> None:
        self._due: dict[str | int, float] = {}

    def take(self, id: str | int, mean: float, most: int) -> int:
        """A whole number up to `most`; over many calls `mean` on average."""
        due = self._due.get(id, 0.5) + mean
        count = min(most, int(due))
        self._due[id] = due - count
        return count

    def forget(self, id: str | int) -> None:
        """The request has ended."""
        self._due.pop(id, None)


@dataclass(slots=True)
class Turn:
    """One request's draft in the making: `wanted` guesses, `made` so far. Those of a real device lie in the
    request, where the sampler sees them."""

    request: Request
    wanted: int
    made: int = 0

    @property
    def open(self) -> bool:
        """Whether more guesses are wanted."""
        return self.made < self.wanted

    def add(self, tokens: Sequence[int]) -> None:
        """Append guesses."""
        self.request.set_drafts([*self.request.draft_ids, *tokens])
        self.made += len(tokens)

    def count(self, num: int) -> None:
        """`num` more guesses, whose ids are unknown."""
        self.made += num

    def drop_last(self) -> None:
        """Take the newest guess back."""
        self.request.set_drafts(self.request.draft_ids[:-1])
        self.made -= 1


class ModelDrafter(ABC):
    """Base of drafters with models. `build` puts them together once the engine's own model is there.

    models: their draft models, in the order in which a guess passes them. counters: proposals (requests that
    got a draft), passes of any draft model, drafted and accepted tokens.
    """

    runs_model = True
    rate = 1.0

    def __init__(self, most: int) -> None:
        self.most = most
        self.counters = {"proposals": 0, "passes": 0, "drafted": 0, "accepted": 0}
        self.models: list[DraftModel] = []
        self._acceptance = 0.0
        self._spread = Spread()
        self._max_context = 0

    # --- what subclasses say

    @abstractmethod
    def make_models(self, kit: DraftKit) -> list[DraftModel]:
        """The draft models, not yet allocated. ValueError where the plan cannot have them."""

    @abstractmethod
    def draft(self, turns: Sequence[Turn], limit: int) -> None:
        """Make the guesses of `turns`, in passes of at most about `limit` tokens: fewer than wanted, or none,
        where there is no room."""

    # --- built with the engine

    def build(self, kit: DraftKit) -> None:
        """Make the models."""
        kit.check()
        self.models = self.make_models(kit)
        self._max_context = min([kit.limits.max_context, *(m.max_context for m in self.models)])

    def held(self) -> Held:
        """What the models hold beside the engine's."""
        return Held(*(sum(part) for part in zip(*(m.held() for m in self.models), strict=True)))

    def allocate(self, size: CacheSize) -> None:
        """Take memory beside an engine's cache of `size`."""
        for model in self.models:
            model.allocate(size)

    # --- drafting

    def propose(self, requests: Sequence[Request], limit: int) -> list[Any]:
        """The guesses for each of `requests`; on a modelled device how many there are."""
        for model in self.models:
            model.keep_only(requests)
        before = sum(model.passes for model in self.models)
        turns = [Turn(request, self._wanted(request)) for request in requests]
        going = [turn for turn in turns if turn.open]
        if going:
            self.draft(going, limit)
        self.counters["proposals"] += sum(turn.made > 0 for turn in turns)
        self.counters["passes"] += sum(model.passes for model in self.models) - before
        real = self.models[0].device.real
        return [turn.request.draft_ids if real else turn.made for turn in turns]

    def _wanted(self, request: Request) -> int:
        left = request.max_tokens - request.num_output_tokens, self._max_context - request.num_tokens
        return max(0, min(self.most, *(most - 1 for most in left)))

    def observe(self, request: Request, drafted: int, accepted: int) -> None:
        """Of `drafted` guesses for `request`, the first `accepted` were right."""
        del request
        self.counters["drafted"] += drafted
        self.counters["accepted"] += accepted

    def forget(self, request: Request) -> None:
        """`request` has ended."""
        self._spread.forget(request.id)
        for model in self.models:
            model.forget(request.id)

    def measured(self, totals: EngineTotals) -> dict[str, float]:
        """The acceptance rate of the drafts that were verified."""
        if not totals.drafts:
            return {}
        return {
            "acceptance_rate": acceptance_rate(
                totals.accepted / totals.drafts, totals.drafted / totals.drafts
            )
        }

    # --- where token ids are unknown

    def modelled(self, behaviour: Mapping[str, float]) -> ModelDrafter:
        """Itself: it charges for its passes, and takes the acceptance rate as given."""
        self._acceptance = behaviour["acceptance_rate"]
        if not 0.0 <= self._acceptance <= 1.0:
            raise ValueError(f"acceptance_rate must lie in 0 … 1, not {self._acceptance}")
        return self

    @property
    def drafted(self) -> float:
        """Guesses of a draft that nothing cuts short."""
        return float(self.most)

    @property
    def accepted(self) -> float:
        """Right ones among them, on average."""
        return mean_accepted(self._acceptance, self.most)

    def judge(self, request: Request, drafted: int) -> int:
        """How many of `drafted` guesses were right."""
        if not drafted:
            return 0
        count = self._spread.take(request.id, mean_accepted(self._acceptance, drafted), drafted)
        self.observe(request, drafted, count)
        return count


def model_drafter(actives: Sequence[Active]) -> ModelDrafter | None:
    """The drafter with models among what is on, real or modelled."""
    for active in actives:
        for drafter in (active.drafter, active.modelled_drafter):
            if isinstance(drafter, ModelDrafter):
                return drafter
    return None
