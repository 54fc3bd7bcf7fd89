"""From a deployment and its settings to verdicts: what a worker of a search does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twofold.engine.memory import DoesNotFitError
from twofold.explore.deployment import Deployed, with_setting
from twofold.explore.estimate import SteadyState
from twofold.explore.load import Estimate, Shape
from twofold.explore.plan import LatencyLimit
from twofold.explore.simulated import simulated
from twofold.explore.space import Candidate, Setting
from twofold.fleet.build import fleet_technique
from twofold.models.find import find_spec, find_stored
from twofold.plan import Plan

PERCENTILES = ("p50", "p90")
"""Percentiles that are shown of every candidate, beside those that a limit names."""


@dataclass(frozen=True, slots=True)
class Task:
    """The candidates of one deployment that are to be estimated. plan: of the first of them; the others
    differ in their setting."""

    plan: Plan
    device: str
    numbers: tuple[int, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a candidate. constraint: which one it fails, empty where it meets all; detail: by how
    much or why."""

    number: int
    constraint: str = ""
    detail: str = ""
    estimate: Estimate | None = None


class Evaluator:
    """Estimates the candidates of tasks. slo: limits by name. Pickled once for every worker, which looks the
    model up for itself."""

    def __init__(self, model: str, shape: Shape, slo: dict[LatencyLimit, float]) -> None:
        self.model, self.shape, self.slo = model, shape, slo
        asked = {name.partition("_")[2] for name in slo}
        self.statistics = tuple(sorted({*PERCENTILES, *asked} - {"mean"}))
        self._found = False

    def prepare(self) -> None:
        """Look the model up; done by the first task where it was not before."""
        if not self._found:
            self.spec, self.stored = find_spec(self.model), find_stored(self.model)
            self._found = True

    def __getstate__(self) -> dict[str, object]:
        return {"model": self.model, "shape": self.shape, "slo": self.slo}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["model"], state["shape"], state["slo"])  # type: ignore[misc]

    def __call__(self, task: Task) -> list[Verdict]:
        """The verdicts on the candidates of `task`, in their order."""
        self.prepare()
        if fleet_technique(task.plan) is not None:
            return [
                self._simulate(number, with_setting(task.plan, setting), task.device)
                for number, setting in zip(task.numbers, task.settings, strict=True)
            ]
        try:
            deployed = Deployed(task.plan, task.device, self.spec, self.stored)
        except ValueError as error:
            constraint = "memory" if isinstance(error, DoesNotFitError) else "formats"
            return [Verdict(number, constraint, str(error)) for number in task.numbers]
        return [
            self._judge(number, deployed, setting)
            for number, setting in zip(task.numbers, task.settings, strict=True)
        ]

    def _simulate(self, number: int, plan: Plan, device: str) -> Verdict:
        try:
            estimate = simulated(plan, device, self.spec, self.stored, self.statistics)
        except DoesNotFitError as error:
            return Verdict(number, "memory", str(error))
        except ValueError as error:
            return Verdict(number, "formats", str(error))
        constraint, detail = broken(self.slo, estimate)
        return Verdict(number, constraint, detail, estimate)

    def _judge(self, number: int, deployed: Deployed, setting: Setting) -> Verdict:
        try:
            memory, limits = deployed.planned(setting)
        except DoesNotFitError as error:
            return Verdict(number, "memory", str(error))
        except ValueError as error:
            return Verdict(number, "limits", str(error))
        longest = deployed.kept(self.shape.prompt) + self.shape.output
        if longest > limits.max_context:
            return Verdict(number, "limits", f"requests of {longest} tokens exceed {limits.max_context}")
        estimate = SteadyState(deployed, setting, memory, limits, self.shape).estimate(self.statistics)
        constraint, detail = broken(self.slo, estimate)
        return Verdict(number, constraint, detail, estimate)


def broken(slo: dict[LatencyLimit, float], estimate: Estimate) -> tuple[str, str]:
    """(constraint, detail) of the first limit that `estimate` breaks; two empty strings where it keeps
    all."""
    if not estimate.keeps_up:
        return "load", "more requests arrive than can be served"
    for name, limit in slo.items():
        value = latency_of(estimate, name)
        if value > limit:
            return name, f"{value:.4g} s are above {limit:g} s"
    return "", ""


def latency_of(estimate: Estimate, name: LatencyLimit) -> float:
    """The latency of `estimate` that the limit called `name` is about, in seconds."""
    which, _, statistic = name.partition("_")
    if which == "e2e":
        return estimate.e2e
    return (estimate.ttft if which == "ttft" else estimate.tpot)[statistic]


def task_of(plan: Plan, candidates: Sequence[Candidate]) -> Task:
    """The task of estimating `candidates`, all of one deployment, whose first has the plan `plan`."""
    first = candidates[0].deployment
    assert all(candidate.deployment == first for candidate in candidates)
    return Task(
        plan,
        first.device,
        tuple(candidate.number for candidate in candidates),
        tuple(candidate.setting for candidate in candidates),
    )
