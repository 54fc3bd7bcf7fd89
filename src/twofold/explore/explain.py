"""Why the best candidates won, what bound the others, and what would change the decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from twofold.explore.describe import label_of
from twofold.explore.evaluate import Verdict, latency_of
from twofold.explore.objectives import TITLES
from twofold.explore.outcome import ConstraintCount, Winner
from twofold.explore.plan import Exploration, LatencyLimit, Objective
from twofold.explore.search import BEATEN, REJECTED, Search
from twofold.report import units

_MEANINGS = {
    "layout": "the model cannot be cut so, or the devices cannot be linked so",
    "techniques": "the techniques do not work together or on this model",
    "formats": "the device or a technique does not take the formats",
    "memory": "weights, cache and activations take more than the devices have",
    "limits": "limits contradict each other, or requests are longer than they allow",
    "price unknown": "no price is known of the device",
    "price budget": "the devices cost more per hour than the budget",
    "power budget": "the devices may draw more than the budget",
    "quality floor": "a measurement shows that the output suffers too much",
    "quality unknown": "no run has measured what the technique does to the output",
    "load": "more requests arrive than it can serve",
    REJECTED: "the estimate kept the limits, the full simulation did not",
    BEATEN: "even its bound is no better than a candidate that meets all",
}

_ELSEWHERE = {
    "device": "on another device",
    "techniques": "with other techniques",
    "layout": "in another layout",
}


def constraint_counts(search: Search) -> list[ConstraintCount]:
    """How many candidates each constraint bound, most first."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in search.found.verdicts.values():
        if verdict.constraint:
            groups.setdefault(verdict.constraint, []).append(verdict)
    return [
        ConstraintCount(
            constraint=name,
            candidates=len(verdicts),
            meaning=_MEANINGS.get(name) or f"{name.replace('_', ' ')} is above its limit",
            nearest=_nearest(search, name, verdicts),
        )
        for name, verdicts in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def explain(exploration: Exploration, search: Search, winners: list[Winner]) -> list[str]:
    """Sentences on the best candidate, its rivals and what would change the decision."""
    best = next((winner for winner in winners if not winner.broken), None)
    if best is None:
        return ["No candidate meets every constraint; the table of constraints says what bound them."]
    return [
        *_best(exploration, best),
        *_other_objectives(exploration, best, winners),
        *_rivals(exploration, search, best),
        *_limits(exploration, search, best),
        *_doubts(best, winners),
    ]


def value_text(name: Objective, value: float) -> str:
    """An objective with its unit."""
    if name == "cost":
        return f"{units.digits(value)} USD per million tokens"
    if name == "energy":
        return units.si(value, "J/token")
    return units.seconds(value) if name == "latency" else f"{units.digits(value)} token/s"


def _best(exploration: Exploration, best: Winner) -> Iterator[str]:
    first = exploration.explore.objectives[0]
    said = f"Best in {TITLES[first]}: {best.label}, {value_text(first, best.objectives[first].mid)}"
    if best.price_per_hour is not None:
        said += f" at {units.digits(best.price_per_hour)} USD per hour"
    yield said + "."
    bounds = [f"{share * 100:.0f} % by {name}" for name, share in best.bounds.items() if share >= 0.05]
    if bounds:
        yield f"Its time is bound {', '.join(bounds)}."


def _other_objectives(exploration: Exploration, best: Winner, winners: list[Winner]) -> Iterator[str]:
    """Who is best in the other objectives."""
    kept = [winner for winner in winners if not winner.broken]
    for name in exploration.explore.objectives[1:]:
        sign = -1.0 if name == "throughput" else 1.0
        other = min(kept, key=lambda winner: sign * winner.objectives[name].mid)
        if other.number == best.number:
            yield f"It is also best in {TITLES[name]}: {value_text(name, best.objectives[name].mid)}."
        else:
            ours, theirs = best.objectives[name].mid, other.objectives[name].mid
            yield (
                f"Best in {TITLES[name]}: {other.label}, {value_text(name, theirs)} "
                f"instead of {value_text(name, ours)}."
            )


def _rivals(exploration: Exploration, search: Search, best: Winner) -> Iterator[str]:
    """The nearest candidates that decide otherwise: on another device, or with other techniques."""
    first = exploration.explore.objectives[0]
    here = search.values(search.found.verdicts[best.number])[0]
    met = [v for v in search.found.verdicts.values() if not v.constraint]
    nearest: dict[tuple[str, str], Verdict] = {}
    for verdict in sorted(met, key=lambda v: search.values(v)[0]):
        where = search.space.at(verdict.number).deployment
        if where.device != best.place.device:
            nearest.setdefault(("device", where.device), verdict)
        elif where.techniques != search.space.at(best.number).deployment.techniques:
            nearest.setdefault(("techniques", ""), verdict)
        elif where.layout != search.space.at(best.number).deployment.layout:
            nearest.setdefault(("layout", ""), verdict)
    for (what, _), verdict in list(nearest.items())[:4]:
        there = search.values(verdict)[0]
        candidate = search.space.at(verdict.number)
        said = (
            f"Nearest {_ELSEWHERE[what]}, as estimated: {label_of(search.space, candidate)}, "
            f"{value_text(first, abs(there))} against {value_text(first, abs(here))}"
        )
        price = search.bounds.price(candidate.deployment)
        if what == "device" and first == "cost" and price is not None:
            even = price / search.space.devices(candidate.deployment) * here / there
            said += f"; it would win below {units.digits(even)} USD per device and hour"
        yield said + "."


def _limits(exploration: Exploration, search: Search, best: Winner) -> Iterator[str]:
    """Which latency limit, loosened least, would allow something better than the best."""
    first = exploration.explore.objectives[0]
    slo = exploration.explore.slo
    here = search.values(search.found.verdicts[best.number])[0]
    options: list[tuple[float, LatencyLimit, float, Verdict]] = []
    for verdict in search.found.verdicts.values():
        name = verdict.constraint
        if verdict.estimate is None or name not in slo:
            continue
        broken = [n for n in slo if latency_of(verdict.estimate, n) > slo[n]]
        if len(broken) == 1 and _gain(here, search.values(verdict)[0]) > 0.02:
            limit: LatencyLimit = broken[0]
            value = latency_of(verdict.estimate, limit)
            options.append((value / slo[limit], limit, value, verdict))
    if options:
        _, limit, value, verdict = min(options, key=lambda option: option[0])
        gain = _gain(here, search.values(verdict)[0])
        yield (
            f"With {limit} up to {units.seconds(value)} (limit {units.seconds(slo[limit])}), "
            f"{label_of(search.space, search.space.at(verdict.number))} would be {gain * 100:.0f} % better "
            f"in {TITLES[first]}."
        )


def _doubts(best: Winner, winners: list[Winner]) -> Iterator[str]:
    places = [str(i) for i, winner in enumerate(winners, start=1) if winner.number in best.unsure]
    if places:
        yield f"The order is not certain: the interval of the best overlaps with that of {', '.join(places)}."
    broken = [winner for winner in winners if winner.broken]
    for winner in broken:
        yield f"Estimated to keep all limits, but not in the simulation: {winner.label} ({winner.broken[0]})."


def _gain(here: float, there: float) -> float:
    """How much better `there` is, as a share; objectives are minimised, and negative where they are not."""
    return 1.0 - there / here if here > 0 else there / here - 1.0


def _nearest(search: Search, name: str, verdicts: list[Verdict]) -> str:
    """The candidate that came closest to keeping a latency limit."""
    if name not in get_args(LatencyLimit):
        return ""
    values = [
        (latency_of(v.estimate, name), v.number)  # type: ignore[arg-type]
        for v in verdicts
        if v.estimate is not None
    ]
    if not values:
        return ""
    value, number = min(values)
    return f"{units.seconds(value)} by {label_of(search.space, search.space.at(number))}"
