"""The space of candidates: every deployment, with every setting of limits and load on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from twofold.explore.plan import Exploration
from twofold.models.parallel import divisors
from twofold.models.spec import ModelSpec
from twofold.plan import Plan, TechniqueUse
from twofold.techniques.registry import make_technique


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model is cut over equal devices: the degrees of `plan.ParallelPlan`."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def devices(self) -> int:
        """Devices that it takes."""
        return self.tp * self.pp * self.dp

    @property
    def label(self) -> str:
        """The degrees above one: "tp4 pp2"."""
        named = {"tp": self.tp, "pp": self.pp, "dp": self.dp, "ep": self.ep}
        return " ".join(f"{name}{degree}" for name, degree in named.items() if degree > 1) or "single"


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is built once: a device, the layout on several of it, the techniques (place in the plan's list)
    and the formats."""

    device: str
    layout: Layout
    techniques: int
    precision: str
    weights: str
    cache_format: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What a deployment is run with: limits (None: the engine's default) and load (None: the plan's)."""

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    concurrency: int | None = None
    rate: float | None = None

    def limits(self) -> dict[str, int]:
        """The engine limits that it sets, by their field of the plan."""
        named = {
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of the space. number: its place in the order of `Space.candidates`."""

    number: int
    deployment: Deployment
    setting: Setting


class Space:
    """All candidates of an exploration of a model.

    axes: by name, the choices of everything that is searched; a candidate is one choice of each. recorded:
    per set of techniques, data-dependent quantities that earlier runs measured.
    """

    def __init__(
        self, exploration: Exploration, spec: ModelSpec, recorded: Sequence[dict[str, float]] = ()
    ) -> None:
        plan, explore = exploration
        self.plan, self.sets = plan, explore.techniques
        self._places = [_places(uses) for uses in self.sets]
        self._recorded = recorded
        load = plan.workload
        limits = plan.engine
        self.axes: dict[str, tuple[Any, ...]] = {
            "device": explore.devices,
            "layout": tuple(_layouts(exploration, spec)),
            "techniques": tuple(range(len(explore.techniques))),
            "precision": explore.precisions or (plan.precision,),
            "weights": explore.weights or (limits.weights,),
            "cache_format": explore.cache_formats or (limits.cache_format,),
            "max_num_seqs": explore.max_num_seqs or (limits.max_num_seqs,),
            "max_num_batched_tokens": explore.max_num_batched_tokens or (limits.max_num_batched_tokens,),
            "load": tuple(_loads(explore.concurrency, explore.rate, load.concurrency, load.rate)),
        }
        if not self.axes["layout"]:
            raise ValueError(
                "no layout makes any of the counts: allow more degrees in explore's tp, pp and dp"
            )
        for name, choices in self.axes.items():
            if len(choices) > 1:  # a wrong value of a format is said before anything takes long
                for place in range(len(choices)):
                    self.plan_of(self.candidate({axis: place * (axis == name) for axis in self.axes}))

    def __len__(self) -> int:
        size = 1
        for choices in self.axes.values():
            size *= len(choices)
        return size

    def candidate(self, chosen: dict[str, int]) -> Candidate:
        """The candidate with choice number `chosen[axis]` on each axis."""
        number = 0
        for name, choices in self.axes.items():
            number = number * len(choices) + chosen[name]
        return self.at(number)

    def at(self, number: int) -> Candidate:
        """The candidate of that number, 0 to len - 1."""
        rest, values = number, {}
        for name, choices in reversed(self.axes.items()):
            rest, place = divmod(rest, len(choices))
            values[name] = choices[place]
        concurrency, rate = values.pop("load")
        setting = Setting(values.pop("max_num_seqs"), values.pop("max_num_batched_tokens"), concurrency, rate)
        return Candidate(number, Deployment(**values), setting)

    def deployments(self) -> Iterator[list[Candidate]]:
        """The candidates of each deployment, in their order."""
        per = 1
        for name in ("max_num_seqs", "max_num_batched_tokens", "load"):
            per *= len(self.axes[name])
        first = self.at(0)
        settings = [self.at(number).setting for number in range(per)]
        for start in range(0, len(self), per):
            first = self.at(start)
            yield [Candidate(start + i, first.deployment, s) for i, s in enumerate(settings)]

    def uses(self, deployment: Deployment) -> tuple[TechniqueUse, ...]:
        """The techniques that are on in `deployment`."""
        return self.sets[deployment.techniques]

    def instances(self, deployment: Deployment) -> tuple[str, ...]:
        """The device of each instance of `deployment`: several where a technique works on several, each of
        which has the whole layout."""
        return tuple(device or deployment.device for device in self._places[deployment.techniques])

    @property
    def named_devices(self) -> list[str]:
        """Every device that is searched, those that techniques name for some instances included."""
        others = [device for places in self._places for device in places if device is not None]
        return list(dict.fromkeys([*self.axes["device"], *others]))

    def devices(self, deployment: Deployment) -> int:
        """Devices that `deployment` takes."""
        return deployment.layout.devices * len(self.instances(deployment))

    def recorded(self, deployment: Deployment) -> dict[str, float]:
        """What earlier runs measured of the data-dependent quantities of its techniques."""
        return self._recorded[deployment.techniques] if self._recorded else {}

    def plan_of(self, candidate: Candidate) -> Plan:
        """The plan that `candidate` is."""
        where, setting = candidate.deployment, candidate.setting
        cut = where.layout
        values = self.plan.model_dump(exclude_unset=True)  # what is unset is left to the serving software
        values["parallel"] = {"tp": cut.tp, "pp": cut.pp, "dp": cut.dp, "ep": cut.ep}
        values["precision"] = where.precision
        values["techniques"] = [use.model_dump() for use in self.uses(where)]
        values["workload"] = values.get("workload", {}) | {
            "concurrency": setting.concurrency,
            "rate": setting.rate,
        }
        values["engine"] = values.get("engine", {}) | setting.limits()
        values["engine"] |= {"weights": where.weights, "cache_format": where.cache_format}
        return Plan.from_dict(values, "candidate")


def _places(uses: tuple[TechniqueUse, ...]) -> Sequence[str | None]:
    """The device of each instance that `uses` ask for (None: the deployment's own)."""
    for use in uses:
        policy = make_technique(use.name, use.params).fleet_policy()
        if policy is not None:
            return policy.devices
    return (None,)


def _layouts(exploration: Exploration, spec: ModelSpec) -> Iterator[Layout]:
    """Every way to factor each count into allowed degrees; expert parallelism only where there are
    experts."""
    explore = exploration.explore
    for count in explore.counts:
        for tp, pp in product(divisors(count), divisors(count)):
            if count % (tp * pp):
                continue
            dp = count // (tp * pp)
            named = ((tp, explore.tp), (pp, explore.pp), (dp, explore.dp))
            if any(allowed is not None and degree not in allowed for degree, allowed in named):
                continue
            experts = sorted({1, tp, tp * dp}) if spec.experts is not None else [1]
            for ep in experts:
                if explore.ep is None or ep in explore.ep:
                    yield Layout(tp, pp, dp, ep)


def _loads(
    concurrency: tuple[int, ...], rate: tuple[float, ...], own_concurrency: int | None, own_rate: float | None
) -> Iterator[tuple[int | None, float | None]]:
    if concurrency:
        yield from ((one, None) for one in concurrency)
    elif rate:
        yield from ((None, one) for one in rate)
    else:
        yield own_concurrency, own_rate
