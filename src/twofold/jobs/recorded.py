"""What earlier runs measured of data-dependent quantities, for predictions of the same model with the same
techniques."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twofold.plan import Plan, TechniqueUse
from twofold.report.schema import Result
from twofold.report.store import Store, Stored
from twofold.techniques.registry import make_technique, technique_class


@dataclass(frozen=True, slots=True)
class Recorded:
    """Quantities by name with their values, and the stored result that each was measured by."""

    values: dict[str, float] = field(default_factory=dict)
    runs: dict[str, Stored] = field(default_factory=dict)

    def name_in(self, result: Result) -> Result:
        """`result`, a prediction that was given `values`, with the runs named in its behaviour."""
        behaviour = {
            key: value.model_copy(update={"note": f"recorded by {self._run(key)}"})
            if value.source == "recorded"
            else value
            for key, value in result.behaviour.items()
        }
        return result.model_copy(update={"behaviour": behaviour})

    def _run(self, key: str) -> str:
        number, result = self.runs[key].id, self.runs[key].result
        return f"result {number} ({result.label} on {result.device}, {result.created:%Y-%m-%d %H:%M} UTC)"


def find_recorded(plan: Plan, store: Store) -> Recorded:
    """The behaviour of each technique of `plan` as the latest run of the same model measured it.

    A run counts where the technique had equal parameters; runs with exactly the plan's techniques come first.
    ValueError where the store cannot be read.
    """
    wanted = [(use.name, _params(use)) for use in plan.techniques]
    values: dict[str, float] = {}
    runs: dict[str, Stored] = {}
    for name, params in wanted:
        quantities = technique_class(name).info.behaviour
        if not quantities:
            continue
        found = [
            s
            for s in store.find(kind="run", model=plan.model, technique=name)
            if (name, params) in _uses(s.result)
        ]
        same = [
            s
            for s in found
            if len(s.result.techniques) == len(wanted) and all(w in _uses(s.result) for w in wanted)
        ]
        for stored in [*same, *found]:
            measured = {
                k: v.value
                for k, v in stored.result.behaviour.items()
                if k in quantities and v.source == "measured"
            }
            if measured:
                values |= {k: v for k, v in measured.items() if not isinstance(v, list)}
                runs |= dict.fromkeys(measured, stored)
                break
    return Recorded(values, runs)


def check_behaviour(plan: Plan) -> None:
    """ValueError where the plan gives a quantity that none of its techniques has: it would change nothing."""
    uses = [*plan.techniques, *(use for together in plan.combinations for use in together)]
    known = {key for use in uses for key in technique_class(use.name).info.behaviour}
    for key in plan.behaviour:
        if key not in known:
            has = f"they have {', '.join(sorted(known))}" if known else "they have none"
            raise ValueError(f"behaviour {key!r} belongs to no technique of the plan; {has}")


def _params(use: TechniqueUse) -> dict[str, Any]:
    params = make_technique(use.name, use.params).params
    return {k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}


def _uses(result: Result) -> list[tuple[str, dict[str, Any]]]:
    return [(use.name, dict(use.params)) for use in result.techniques]
