"""A technique switched on: the objects that it put into the engine's seams, and what they counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from twofold.engine.draft import Drafter, ModelledDrafts
from twofold.engine.filter import PromptFilter
from twofold.engine.paging import Paging
from twofold.engine.policy import SchedulingPolicy
from twofold.engine.retention import Retention
from twofold.models.attending import AttendingScheme
from twofold.models.cache import CacheScheme
from twofold.models.options import LayerSelection
from twofold.models.placement import Placement
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
    attending: AttendingScheme | None
    selection: LayerSelection | None
    prompt_filter: PromptFilter | None
    policy: SchedulingPolicy | None
    drafter: Drafter | None
    modelled_drafter: ModelledDrafts | None
    behaviour: dict[str, tuple[float, str]]
    paging: Paging | None = None
    retention: Retention | None = None
    placement: Placement | None = None

    @property
    def max_drafts(self) -> int:
        """Guesses that a request may have at once; 0 where it makes none."""
        drafter = self.drafter or self.modelled_drafter
        return 0 if drafter is None else drafter.most

    @property
    def parts(self) -> list[Any]:
        """Its seam objects."""
        found: list[Any] = [
            self.weights,
            self.cache,
            self.attending,
            self.selection,
            self.prompt_filter,
            self.policy,
            self.drafter,
            self.modelled_drafter,
            self.paging,
            self.retention,
            self.placement,
        ]
        return [part for part in found if part is not None]

    @property
    def counters(self) -> dict[str, int]:
        """What its seam objects counted, by name."""
        found: dict[str, int] = {}
        for part in self.parts:
            found.update(getattr(part, "counters", {}))
        return found

    def measured(self) -> dict[str, float]:
        """Data-dependent quantities that a real run measured, by name: what the method `measured` of seam
        objects returns. Drafters have theirs from the engine's totals."""
        found: dict[str, float] = {}
        for part in self.parts:
            if part is not self.drafter and part is not self.modelled_drafter and hasattr(part, "measured"):
                found.update(part.measured())
        return found

    def check_reached(self) -> None:
        """NotReachedError unless one of its counters moved."""
        check_reached(self.technique.info.name, self.counters)


def check_reached(name: str, counters: Mapping[str, int]) -> None:
    """NotReachedError unless one of the `counters` of the technique `name` moved."""
    if not any(counters.values()):
        names = ", ".join(counters) or "none"
        raise NotReachedError(
            f"technique {name} was asked for but never reached (counters: {names}); check that the workload "
            "can use it, or drop it from the plan"
        )


def activate(
    technique: Technique, *, real: bool, overrides: dict[str, float], recorded: dict[str, float]
) -> Active:
    """Switch `technique` on. Where nothing is computed, data-dependent quantities come from `overrides` (the
    user's), else `recorded` (an earlier run), else the technique's own figures: seam objects with a method
    `expect` are told them by name."""
    behaviour = dict(technique.info.behaviour)
    for source, values in (("recorded by a run", recorded), ("given by the user", overrides)):
        behaviour.update({k: (v, source) for k, v in values.items() if k in behaviour})
    drafter = technique.drafter()
    modelled = None
    if drafter is not None and not real:
        modelled = drafter.modelled({name: value for name, (value, _) in behaviour.items()})
    cache = technique.cache_scheme()
    if (expect := getattr(cache, "expect", None)) is not None:
        expect({name: value for name, (value, _) in behaviour.items()})
    active = Active(
        technique,
        technique.weight_scheme(),
        cache,
        technique.attending_scheme(),
        technique.layer_selection(),
        technique.prompt_filter(),
        technique.scheduling_policy(),
        drafter if real else None,
        modelled,
        behaviour,
        technique.paging(),
        technique.retention(),
        placement=technique.placement(),
    )
    if not real:
        expected = {name: value for name, (value, _) in behaviour.items()}
        for part in active.parts:
            if hasattr(part, "expect"):
                part.expect(expected)
    return active


def the_one(found: Sequence[T | None]) -> T | None:
    """The only object in a seam that takes one; pairs that would give two are refused before."""
    there = [f for f in found if f is not None]
    assert len(there) <= 1, f"two objects for one seam: {there}"
    return there[0] if there else None
