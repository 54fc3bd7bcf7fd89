"""A technique switched on: the objects that it put into the engine's seams, and what they counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from twofold.engine.draft import Drafter, ModelledDrafter
from twofold.engine.filter import PromptFilter
from twofold.engine.policy import SchedulingPolicy
from twofold.models.cache import CacheScheme
from twofold.models.options import LayerSelection
from twofold.models.weights import WeightScheme
from twofold.techniques.base import Technique

T = TypeVar("T")


class NotReachedError(RuntimeError):
    """A technique was asked for, and nothing that the engine did went through it."""


@dataclass(slots=True)
class Active:
    """One technique and its seam objects (None where it does not use the seam)."""

    technique: Technique
    weights: WeightScheme | None
    cache: CacheScheme | None
    selection: LayerSelection | None
    prompt_filter: PromptFilter | None
    policy: SchedulingPolicy | None
    drafter: Drafter | None
    modelled_drafter: ModelledDrafter | None
    behaviour: dict[str, tuple[float, str]]

    @property
    def max_drafts(self) -> int:
        """Guesses that a request may have at once; 0 where it makes none."""
        drafter = self.drafter or self.modelled_drafter
        return 0 if drafter is None else drafter.most

    @property
    def counters(self) -> dict[str, int]:
        """What its seam objects counted, by name."""
        parts: list[Any] = [self.weights, self.cache, self.selection, self.prompt_filter, self.policy]
        parts += [self.drafter, self.modelled_drafter]
        found: dict[str, int] = {}
        for part in parts:
            found.update(getattr(part, "counters", {}))
        return found

    def check_reached(self) -> None:
        """NotReachedError unless one of its counters moved."""
        if not any(self.counters.values()):
            names = ", ".join(self.counters) or "none"
            raise NotReachedError(
                f"technique {self.technique.info.name} was asked for but never reached (counters: {names}); "
                f"check that the workload can use it, or drop it from the plan"
            )


def activate(
    technique: Technique, *, real: bool, overrides: dict[str, float], recorded: dict[str, float]
) -> Active:
    """Switch `technique` on. Where nothing is computed, data-dependent quantities come from `overrides` (the
    user's), else `recorded` (an earlier run), else the technique's own figures."""
    behaviour = dict(technique.info.behaviour)
    for source, values in (("recorded by a run", recorded), ("given by the user", overrides)):
        behaviour.update({k: (v, source) for k, v in values.items() if k in behaviour})
    drafter = technique.drafter()
    modelled = None
    if drafter is not None and not real:
        rate, drafted, accepted = (behaviour[k][0] for k in ("draft_rate", "draft_length", "accepted_length"))
        modelled = ModelledDrafter(rate, drafted, accepted, drafter.most)
    return Active(
        technique,
        technique.weight_scheme(),
        technique.cache_scheme(),
        technique.layer_selection(),
        technique.prompt_filter(),
        technique.scheduling_policy(),
        drafter if real else None,
        modelled,
        behaviour,
    )


def the_one(found: Sequence[T | None]) -> T | None:
    """The only object in a seam that takes one; pairs that would give two are refused before."""
    there = [f for f in found if f is not None]
    assert len(there) <= 1, f"two objects for one seam: {there}"
    return there[0] if there else None
