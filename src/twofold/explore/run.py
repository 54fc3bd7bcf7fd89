"""`explore`: from an exploration to its result."""

from __future__ import annotations

import time
from collections.abc import Callable

from twofold.devices.registry import is_real, make_device
from twofold.explore.bounds import Bounds
from twofold.explore.confirm import confirm, measure
from twofold.explore.describe import estimated_figures, place_of
from twofold.explore.evaluate import Evaluator
from twofold.explore.explain import constraint_counts, explain
from twofold.explore.genetic import evolve
from twofold.explore.load import Shape
from twofold.explore.outcome import CandidateRow, ExplorationResult
from twofold.explore.plan import Exploration
from twofold.explore.quality import KnownQuality, known_quality, recorded_runs
from twofold.explore.search import Found, Progress, Search
from twofold.explore.space import Deployment, Space
from twofold.explore.workers import LocalPool, Pool, RayPool
from twofold.jobs.recorded import find_recorded
from twofold.models.find import find_spec, find_stored, find_tokenizer_source
from twofold.models.spec import ModelSpec
from twofold.report.store import Store
from twofold.workloads.workload import make_workload

ENUMERATED = 50_000
"""Candidates up to which a space is gone through; larger ones are left to NSGA-II."""


def explore(
    exploration: Exploration,
    *,
    store: Store | None = None,
    jobs: int | None = None,
    ray: str | None = None,
    run_here: bool = False,
    progress: Progress | None = None,
) -> ExplorationResult:
    """Search the space of `exploration`, simulate the winners, and say why they won.

    store: where recorded measurements of quality and behaviour are looked up. jobs: processes (default: all
    cores); ray: address of a Ray cluster ("" starts one here) that is used instead. run_here: run the winners
    that this machine can run. ValueError for what cannot be searched.
    """
    started = time.perf_counter()
    plan, section = exploration
    spec, stored = find_spec(plan.model), find_stored(plan.model)
    shape, summary = _shape(exploration, spec)
    recorded = [
        find_recorded(plan.with_techniques(uses), store).values if store is not None and uses else {}
        for uses in section.techniques
    ]
    space = Space(exploration, spec, recorded)
    for device in space.named_devices:
        if is_real(device):
            raise ValueError(
                f"explore predicts, and {device!r} is a real device: 'this-cpu' is this machine's processor"
            )
        make_device(device)
    bounds = Bounds(exploration, space, spec, shape, stored=stored is not None)
    evaluator = Evaluator(plan.model, shape, section.slo)
    pool: Pool = LocalPool(evaluator, jobs) if ray is None else RayPool(evaluator, ray or None)
    enumerated = section.search == "enumerate" or (section.search == "auto" and len(space) <= ENUMERATED)
    search = Search(
        exploration,
        space,
        bounds,
        _quality(exploration, space, store),
        pool,
        progress if enumerated else None,
    )
    try:
        found = (
            search.enumerate()
            if enumerated
            else evolve(search, section.evaluations, seed=plan.seed, progress=progress)
        )
        searched, judged = time.perf_counter() - started, len(found.verdicts)
        winners = confirm(exploration, search, spec, stored, progress)
    finally:
        pool.close()
    if run_here:
        winners = [measure(w, space.plan_of(space.at(w.number)), progress) for w in winners]
    return ExplorationResult(
        title=f"Deployments of {plan.model}",
        model=plan.model,
        workload=summary,
        objectives=list(section.objectives),
        slo=section.slo,
        axes={name: len(choices) for name, choices in space.axes.items()},
        space=len(space),
        judged=judged,
        estimated=found.estimated,
        bounded=found.bounded,
        method="enumeration" if enumerated else "NSGA-II",
        workers=pool.workers,
        search_seconds=searched,
        seconds=time.perf_counter() - started,
        winners=winners,
        constraints=constraint_counts(search),
        explanation=explain(exploration, search, winners),
        notes=_notes(exploration, search),
        candidates=_rows(search, found),
        seed=plan.seed,
    )


def _shape(exploration: Exploration, spec: ModelSpec) -> tuple[Shape, str]:
    """The mean request of the workload, and the workload in words."""
    plan = exploration.plan
    load = plan.workload
    if load.trace is None and load.prompts is None:
        words = f"requests of {load.prompt} + {load.output} tokens"
        return Shape(load.prompt, load.output, load.requests), words
    source = find_tokenizer_source(plan.model) if load.prompts is not None else None
    tokenizer = None if source is None else source.tokenizer
    workload = make_workload(load, tokenizer, real=False, vocab=spec.vocab_size)
    span = workload.items[-1].time - workload.items[0].time
    rate = (len(workload.items) - 1) / span if workload.concurrency is None and span > 0 else None
    prompt, output = round(workload.prompt_tokens), round(workload.output_tokens)
    return Shape(max(1, prompt), max(1, output), len(workload.items), rate), workload.summary


def _quality(
    exploration: Exploration, space: Space, store: Store | None
) -> Callable[[Deployment], KnownQuality]:
    """What is known of the quality of a deployment, looked up once for each set of techniques and formats."""
    runs = recorded_runs(store) if store is not None else []
    known: dict[tuple[int, str, str], KnownQuality] = {}

    def of(deployment: Deployment) -> KnownQuality:
        key = (deployment.techniques, deployment.weights, deployment.cache_format)
        if key not in known:
            known[key] = known_quality(
                space.uses(deployment),
                exploration.plan.model,
                runs,
                weights=deployment.weights,
                cache_format=deployment.cache_format,
            )
        return known[key]

    return of


def _rows(search: Search, found: Found) -> list[CandidateRow]:
    """One row per candidate that was judged, in their order."""
    rows = []
    for number in sorted(found.verdicts):
        verdict = found.verdicts[number]
        candidate = search.space.at(number)
        price = search.bounds.price(candidate.deployment)
        rows.append(
            CandidateRow(
                number=number,
                place=place_of(search.space, candidate),
                constraint=verdict.constraint,
                detail=verdict.detail,
                on_front=number in found.front.values,
                quality=search.quality(candidate.deployment).label,
                estimate=None if verdict.estimate is None else estimated_figures(verdict.estimate, price),
            )
        )
    return rows


def _notes(exploration: Exploration, search: Search) -> list[str]:
    """What a reader has to know of where figures come from."""
    notes = []
    named = sorted({deployment.device for deployment in map(_deployment(search), search.found.verdicts)})
    given = [name for name in named if name in exploration.explore.prices]
    listed = {
        name: file.sources[file.price.per_hour.source]
        for name in named
        if name not in given
        and (file := search.bounds.file(name)) is not None
        and file.price is not None
        and file.price.per_hour is not None
    }
    if given:
        notes.append(f"prices from the plan: {', '.join(given)}")
    by_source: dict[str, list[str]] = {}
    for name, source in listed.items():
        by_source.setdefault(source, []).append(name)
    notes += [f"prices of {', '.join(names)}: {source}" for source, names in by_source.items()]
    workload = exploration.plan.workload
    if workload.trace is not None or workload.prompts is not None:
        notes.append("the estimate takes all requests as average ones; the simulation plays them as they are")
    return notes


def _deployment(search: Search) -> Callable[[int], Deployment]:
    return lambda number: search.space.at(number).deployment
