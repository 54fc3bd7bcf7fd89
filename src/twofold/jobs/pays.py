"""Where a technique that does not pay here would: predictions at other places."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twofold.engine.active import NotReachedError
from twofold.jobs.predict import predict_plan
from twofold.plan import EnginePlan, Plan, WorkloadPlan
from twofold.report.schema import Result
from twofold.report.tradeoff import Trial
from twofold.workloads.workload import make_workload

_LONG = WorkloadPlan(requests=16, prompt=8192, output=256, concurrency=16)
_ONE = WorkloadPlan(requests=1, prompt=512, output=256, concurrency=1)


@dataclass(frozen=True)
class Place:
    """A device with a model and a load."""

    device: str
    model: str
    workload: WorkloadPlan


PLACES = (
    Place("h100-sxm", "llama-3.1-8b", _LONG),
    Place("rtx-4090", "llama-3.1-8b", _LONG),
    Place("xeon-8480", "llama-3.1-8b", _LONG),
    Place("rtx-4090", "llama-3.1-8b", _ONE),
    Place("xeon-8480", "llama-3.1-8b", _ONE),
    Place("h200-sxm", "llama-3.1-70b", _ONE),
)
"""What is tried: a larger model under long prompts, where there is room to spare, where the cache limits how
many requests run at once, and on a processor; one request after the other; last, weights that do not fit."""


class Elsewhere:
    """Predictions of a plan's variants at other places. Each place's baseline is predicted once."""

    def __init__(self, plan: Plan, places: Sequence[Place] = PLACES) -> None:
        self._plan, self._places = plan, places
        self._baselines: dict[Place, Result | str] = {}

    def trials(self, variant: Plan, recorded: Mapping[str, float]) -> list[Trial]:
        """`variant` at each place. recorded: what a run measured of what depends on data."""
        found = []
        for place in self._places:
            if place not in self._baselines:
                self._baselines[place] = self._predict(self._plan.with_techniques(()), place, {})
            ours, base = self._predict(variant, place, recorded), self._baselines[place]
            load = make_workload(place.workload, None, real=False, vocab=1).summary
            found.append(Trial.between(ours, base, place.device, place.model, load))
        return found

    def _predict(self, plan: Plan, place: Place, recorded: Mapping[str, float]) -> Result | str:
        """What the plan's techniques would do there, under the engine's own limits; or why they cannot."""
        changes = {
            "device": place.device,
            "model": place.model,
            "workload": place.workload,
            "engine": EnginePlan(),
            "precision": "auto",
        }
        try:
            return predict_plan(plan.model_copy(update=changes), place.device, recorded=dict(recorded))
        except (ValueError, NotReachedError) as error:
            return str(error)
        except Exception as error:  # one prediction that breaks is no reason to lose what was measured
            logging.getLogger(__name__).exception("a prediction for %s failed", place.device)
            return f"{type(error).__name__}: {error}"
