"""Winners held against the whole engine: simulated in full, and run where this machine is what they run
on."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.devices.catalog import THIS_CPU
from twofold.explore.describe import estimated_figures, label_of, place_of, result_figures
from twofold.explore.evaluate import Verdict
from twofold.explore.objectives import Front
from twofold.explore.outcome import Figures, Winner
from twofold.explore.plan import Exploration, LatencyLimit, Objective
from twofold.explore.search import Progress, Search
from twofold.jobs.predict import predict_plan
from twofold.jobs.run import run_plan
from twofold.models.find import find_checkpoint
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.report.schema import Figure, Result

PATIENCE = 3
"""Simulations per winner that is wanted: how often one may turn out to break a limit before that is
accepted."""


def confirm(
    exploration: Exploration,
    search: Search,
    spec: ModelSpec,
    stored: Checkpoint | None,
    progress: Progress | None = None,
) -> list[Winner]:
    """The best candidates with their simulations, best first by the first objective; those that break a limit
    in the simulation come last, and others take their place."""
    wanted = exploration.explore.winners
    winners: dict[int, Winner] = {}
    while len(winners) < PATIENCE * wanted:
        broken = {number for number, winner in winners.items() if winner.broken}
        if len(winners) - len(broken) >= wanted:
            break
        chosen = next((n for n in _order(search.found.front) if n not in winners), None)
        if chosen is None:
            break
        if progress is not None:
            progress("simulating winners", len(winners) - len(broken), wanted)
        winners[chosen] = _simulated(exploration, search, chosen, spec, stored)
        if winners[chosen].broken:
            search.reject(chosen)
    first = exploration.explore.objectives[0]
    sign = -1.0 if first == "throughput" else 1.0
    ordered = sorted(winners.values(), key=lambda w: (bool(w.broken), sign * w.objectives[first].mid))
    return [winner.model_copy(update={"unsure": _unsure(winner, ordered, first)}) for winner in ordered]


def measure(winner: Winner, plan: Plan, progress: Progress | None = None) -> Winner:
    """`winner` with what running it on this machine gave, or with the reason why it was not run."""
    place = winner.place
    if place.device != THIS_CPU:
        return winner.model_copy(update={"not_measured": f"{place.device} is not this machine"})
    if place.count > 1:
        return winner.model_copy(update={"not_measured": "this machine is one device"})
    here = {"device": "cpu", "quality": plan.quality.model_copy(update={"enabled": False})}
    try:
        checkpoint = find_checkpoint(plan.model)
        measured = run_plan(plan.model_copy(update=here), checkpoint=checkpoint, progress=progress).result
    except ValueError as error:
        return winner.model_copy(update={"not_measured": str(error)})
    return winner.model_copy(update={"measured": measured})


def _order(front: Front) -> list[int]:
    """The numbers on the front: the best in each objective, the second best in each, and so on."""
    if not front.values:
        return []
    width = len(next(iter(front.values.values())))
    ranked = [
        sorted(front.values, key=lambda number, i=i: (front.values[number][i], front.values[number]))  # type: ignore[misc]
        for i in range(width)
    ]
    return list(dict.fromkeys(number for same in zip(*ranked, strict=True) for number in same))


def _simulated(
    exploration: Exploration, search: Search, number: int, spec: ModelSpec, stored: Checkpoint | None
) -> Winner:
    space, explore = search.space, exploration.explore
    candidate = space.at(number)
    deployment = candidate.deployment
    price = search.bounds.price(deployment)
    verdict: Verdict = search.found.verdicts[number]
    assert verdict.estimate is not None
    plan = space.plan_of(candidate)
    label = label_of(space, candidate)
    result = predict_plan(
        plan, deployment.device, label=label, spec=spec, stored=stored, recorded=space.recorded(deployment)
    )
    figures, estimate = result_figures(result, price), estimated_figures(verdict.estimate, price)
    known = search.quality(deployment)
    return Winner(
        number=number,
        label=label,
        place=place_of(space, candidate),
        quality=known.label,
        quality_note=known.note,
        price_per_hour=price,
        estimate=estimate,
        simulated=result,
        figures=figures,
        differences=differences(estimate, figures),
        broken=broken_limits(explore.slo, figures),
        objectives={name: _objective(name, result, figures, price) for name in explore.objectives},
        bounds=_bounds(result),
    )


def differences(estimate: Figures, simulated: Figures) -> dict[str, float]:
    """Estimate / simulation − 1 of each figure that both have."""
    pairs = {
        "tokens_per_s": (estimate.tokens_per_s, simulated.tokens_per_s),
        "e2e": (estimate.e2e, simulated.e2e),
        "joules_per_token": (estimate.joules_per_token, simulated.joules_per_token),
    }
    for name in ("ttft", "tpot"):
        ours, theirs = getattr(estimate, name), getattr(simulated, name)
        pairs |= {f"{name}_{share}": (ours[share], theirs[share]) for share in ours if share in theirs}
    return {name: a / b - 1.0 for name, (a, b) in pairs.items() if a is not None and b}


def broken_limits(slo: dict[LatencyLimit, float], figures: Figures) -> list[str]:
    """The limits that `figures` break, each with its value."""
    found = []
    for name, limit in slo.items():
        which, _, statistic = name.partition("_")
        value = figures.e2e if which == "e2e" else getattr(figures, which).get(statistic)
        if value is not None and value > limit:
            found.append(f"{name}: {value:.4g} s, limit {limit:g} s")
    return found


def _objective(name: Objective, result: Result, figures: Figures, price: float | None) -> Figure:
    """An objective of a simulated result with the interval that the result's own figure has."""
    tokens = result.tokens_per_s
    assert tokens is not None
    if name == "throughput":
        return tokens
    if name == "cost":
        assert figures.usd_per_million is not None
        mid = figures.usd_per_million
        low, high = (mid * tokens.mid / bound if bound else mid for bound in (tokens.high, tokens.low))
        return Figure(low=min(low, mid), mid=mid, high=max(high, mid), unit="USD per million tokens")
    found = result.energy_per_token if name == "energy" else result.e2e
    assert found is not None
    return found


def _bounds(result: Result) -> dict[str, float]:
    """Share of the time by what bounds it, largest first."""
    shares: dict[str, float] = {}
    for part in result.breakdown:
        shares[part.bound] = shares.get(part.bound, 0.0) + part.share
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _unsure(winner: Winner, others: Sequence[Winner], first: Objective) -> list[int]:
    """Winners that keep all limits and whose interval in the first objective overlaps that of `winner`."""
    mine = winner.objectives[first]
    if mine.is_exact:
        return []
    return [
        other.number
        for other in others
        if other.number != winner.number
        and not other.broken
        and not (other.objectives[first].low > mine.high or other.objectives[first].high < mine.low)
    ]
