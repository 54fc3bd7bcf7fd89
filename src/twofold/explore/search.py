"""The search: all candidates in the order in which they look best, each discarded as soon as a bound
allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from twofold.explore.bounds import Bounds, Floor
from twofold.explore.evaluate import Task, Verdict, task_of
from twofold.explore.objectives import Front, objective_values
from twofold.explore.plan import Exploration, LatencyLimit
from twofold.explore.quality import KnownQuality
from twofold.explore.space import Candidate, Deployment, Space
from twofold.explore.workers import Pool

BEATEN = "beaten by a bound"
"""Not a constraint: the candidate could not have been better than one that was estimated before."""

REJECTED = "broken in the simulation"
"""The estimate kept every limit, and the simulation did not."""

Progress = Callable[[str, int, int], None]
QualityOf = Callable[[Deployment], KnownQuality]


@dataclass(slots=True)
class Found:
    """What a search found: verdicts by number, the front, and how many candidates a bound discarded and how
    many were estimated."""

    verdicts: dict[int, Verdict] = field(default_factory=dict)
    front: Front = field(default_factory=Front)
    bounded: int = 0
    estimated: int = 0


class Search:
    """One search over `space`. quality: what is known of the quality of a deployment's techniques."""

    def __init__(
        self,
        exploration: Exploration,
        space: Space,
        bounds: Bounds,
        quality: QualityOf,
        pool: Pool,
        progress: Progress | None = None,
    ) -> None:
        self.explore = exploration.explore
        self.space, self.bounds, self.quality, self.pool = space, bounds, quality, pool
        self.found = Found()
        self._progress = progress

    def enumerate(self, *, prune: bool = True) -> Found:
        """Judge every candidate. prune: whether bounds may discard candidates (where not, every one is
        estimated whose deployment can be built at all)."""
        open_: list[tuple[float, list[tuple[Candidate, Floor | None]]]] = []
        for candidates in self.space.deployments():
            kept = self._possible(candidates, prune=prune)
            if kept:
                open_.append((min(self._promise(candidate, floor) for candidate, floor in kept), kept))
        open_.sort(key=lambda entry: entry[0])
        self._estimate((kept for _, kept in open_), len(open_), prune=prune)
        return self.found

    def judge(self, candidates: Iterable[Candidate]) -> list[Verdict]:
        """Verdicts on any candidates, in their order; those that were judged before are not judged again."""
        wanted = list(candidates)
        groups: dict[Deployment, dict[int, Candidate]] = {}
        for candidate in wanted:
            if candidate.number not in self.found.verdicts:
                groups.setdefault(candidate.deployment, {})[candidate.number] = candidate
        kept = [self._possible(list(group.values()), prune=True) for group in groups.values()]
        kept = [group for group in kept if group]
        self._estimate(iter(kept), len(kept), prune=False)
        return [self.found.verdicts[candidate.number] for candidate in wanted]

    def values(self, verdict: Verdict) -> tuple[float, ...]:
        """The objectives of an estimated candidate."""
        estimate = verdict.estimate
        assert estimate is not None
        return objective_values(
            self.explore.objectives,
            price=self.bounds.price(self.space.at(verdict.number).deployment),
            tokens_per_s=estimate.tokens_per_s,
            joules=estimate.joules,
            e2e=estimate.e2e,
        )

    def reject(self, number: int) -> None:
        """Take a candidate out that has turned out not to keep a limit; what only it had beaten is judged
        again."""
        verdicts = self.found.verdicts
        verdicts[number] = replace(verdicts[number], constraint=REJECTED)
        self.found.front = Front()
        for verdict in verdicts.values():
            if not verdict.constraint:
                self.found.front.add(verdict.number, self.values(verdict))
        again: dict[Deployment, list[tuple[Candidate, Floor | None]]] = {}
        for verdict in list(verdicts.values()):
            if verdict.constraint == BEATEN:
                candidate = self.space.at(verdict.number)
                floor = self.bounds.floor(candidate)
                assert floor is not None
                if not self.found.front.beats(self._lowest(candidate, floor)):
                    again.setdefault(candidate.deployment, []).append((candidate, floor))
        self.found.bounded -= sum(map(len, again.values()))
        self._estimate(iter(again.values()), len(again), prune=True)

    # --- before anything is built ---

    def _possible(self, candidates: list[Candidate], *, prune: bool) -> list[tuple[Candidate, Floor | None]]:
        """The candidates of one deployment that are worth building it for, with their bounds."""
        deployment = candidates[0].deployment
        constraint, detail = self.bounds.refusal(deployment)
        if not constraint:
            known = self.quality(deployment)
            constraint, detail = known.refusal(self.explore.quality), known.note or known.label
        elif constraint == "memory" and not prune:
            constraint = ""
        kept: list[tuple[Candidate, Floor | None]] = []
        for candidate in candidates:
            floor = None if constraint else self.bounds.floor(candidate)
            limit, why = constraint, detail
            if not limit and floor is not None and prune:
                limit, why = _too_slow(self.explore.slo, floor)
            if limit:
                self.found.bounded += 1
                self.found.verdicts[candidate.number] = Verdict(candidate.number, limit, why)
            else:
                kept.append((candidate, floor))
        return kept

    def _lowest(self, candidate: Candidate, floor: Floor) -> tuple[float, ...]:
        """The best objectives that the bounds leave possible."""
        return objective_values(
            self.explore.objectives,
            price=self.bounds.price(candidate.deployment),
            tokens_per_s=floor.tokens_per_s,
            joules=floor.joules,
            e2e=floor.e2e,
        )

    def _promise(self, candidate: Candidate, floor: Floor | None) -> float:
        """How good the candidate may be in the first objective: the order of the search."""
        return float("-inf") if floor is None else self._lowest(candidate, floor)[0]

    # --- estimates ---

    def _estimate(
        self, groups: Iterator[list[tuple[Candidate, Floor | None]]], expected: int, *, prune: bool
    ) -> None:
        total = len(self.space)
        for verdicts in self.pool.run(self._tasks(groups, prune=prune), expected):
            for verdict in verdicts:
                self.found.verdicts[verdict.number] = verdict
                self.found.estimated += verdict.estimate is not None
                if not verdict.constraint:
                    self.found.front.add(verdict.number, self.values(verdict))
            if self._progress is not None:
                self._progress("estimating", len(self.found.verdicts), total)

    def _tasks(
        self, groups: Iterator[list[tuple[Candidate, Floor | None]]], *, prune: bool
    ) -> Iterator[Task]:
        """One task per deployment of what the front does not beat by then."""
        for group in groups:
            left: list[Candidate] = []
            for candidate, floor in group:
                if prune and floor is not None and self.found.front.beats(self._lowest(candidate, floor)):
                    self.found.bounded += 1
                    self.found.verdicts[candidate.number] = Verdict(candidate.number, BEATEN)
                else:
                    left.append(candidate)
            if left:
                plan = self.space.plan_of(left[0])
                known = self.space.recorded(left[0].deployment) | plan.behaviour
                yield task_of(plan.model_copy(update={"behaviour": known}), left)


def _too_slow(slo: dict[LatencyLimit, float], floor: Floor) -> tuple[str, str]:
    """(limit, detail) where not even the bound keeps a limit."""
    for name, limit in slo.items():
        least = {"ttft": floor.ttft, "tpot": floor.tpot, "e2e": floor.e2e}[name.partition("_")[0]]
        if least > limit:
            return name, f"at least {least:.4g} s, by its datasheet, above {limit:g} s"
    return "", ""
