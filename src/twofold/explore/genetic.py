"""Spaces that are too large to go through: NSGA-II chooses which candidates to estimate (Deb et al., "A fast
and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions on Evolutionary Computation 6,
2002)."""

from __future__ import annotations

from typing import Any

from twofold.explore.evaluate import Verdict
from twofold.explore.search import Found, Progress, Search

POPULATION = 100
"""Candidates per generation: the size of the source's own experiments (section V)."""
PATIENCE = 3
"""Generations without a new candidate after which the search ends."""
WORST = 1e30
"""The objectives of a candidate that could not be estimated."""


def evolve(search: Search, evaluations: int, *, seed: int = 0, progress: Progress | None = None) -> Found:
    """Judge about `evaluations` candidates, each once; ValueError where Optuna is not installed.

    A candidate is a choice on every axis; one that fails a constraint loses to every one that fails none
    (constrained domination, section VI of the source).
    """
    try:
        import optuna
        from optuna.distributions import CategoricalDistribution
    except ImportError:
        raise ValueError(
            "a space that large is searched by NSGA-II, which needs Optuna: pip install 'twofold[explore]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = search.space
    axes: dict[str, Any] = {
        name: CategoricalDistribution(tuple(range(len(choices)))) for name, choices in space.axes.items()
    }
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    study = optuna.create_study(directions=["minimize"] * len(search.explore.objectives), sampler=sampler)
    judged = stale = 0
    while judged < min(evaluations, len(space)) and stale < PATIENCE:
        trials = [study.ask(axes) for _ in range(POPULATION)]
        candidates = [space.candidate(trial.params) for trial in trials]
        for trial, verdict in zip(trials, search.judge(candidates), strict=True):
            trial.set_constraint("constraint", 1.0 if verdict.constraint else 0.0)
            study.tell(trial, _values(search, verdict))
        stale = stale + 1 if len(search.found.verdicts) == judged else 0
        judged = len(search.found.verdicts)
        if progress is not None:
            progress("evolving", min(judged, evaluations), evaluations)
    return search.found


def _values(search: Search, verdict: Verdict) -> list[float]:
    width = len(search.explore.objectives)
    return [WORST] * width if verdict.estimate is None else list(search.values(verdict))
