"""The `explore` section of a plan file: what is searched, what must hold, and what is best."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from twofold.devices.figures import parse_quantity
from twofold.errors import nearest
from twofold.plan import Part, Plan, PositiveInt, Rate, TechniqueUse, read_values

Objective = Literal["cost", "energy", "latency", "throughput"]
LatencyLimit = Literal[
    "ttft_mean",
    "ttft_p50",
    "ttft_p90",
    "ttft_p99",
    "tpot_mean",
    "tpot_p50",
    "tpot_p90",
    "tpot_p99",
    "e2e_mean",
]
Choice = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
SECTION = "explore"


def _seconds(value: Any) -> float:
    seconds = parse_quantity(value, "s")
    if not seconds:
        raise ValueError(f"a latency limit must be above 0, not {value!r}")
    return seconds


def _alternatives(value: Any) -> Any:
    """Sets of techniques, with every `key=a|b` in a use written out as one set for each value."""
    if not isinstance(value, list | tuple):
        return value
    sets: list[Any] = []
    for item in value:
        uses = item if isinstance(item, list | tuple) else [item]
        sets += product(*(_written_out(use) for use in uses))
    return sets


def _written_out(use: Any) -> list[Any]:
    if isinstance(use, TechniqueUse):
        return [use]
    if not isinstance(use, str):
        raise ValueError(f"a technique is written name or name:key=value,key=value, not {use!r}")
    name, _, rest = use.partition(":")
    settings = []
    for item in filter(None, rest.split(",")):
        key, equals, values = item.partition("=")
        settings.append([f"{key}{equals}{value}" for value in values.split("|")] if equals else [item])
    return [TechniqueUse.parse(f"{name}:{','.join(chosen)}") for chosen in product(*settings)]


class QualityFloor(Part):
    """What recorded measurements of a technique must show: KL divergence of at most `kl_max` nat per token
    and top-1 agreement of at least `top1_min`. unknown: whether techniques that nobody has measured may be
    used."""

    kl_max: Annotated[float, Field(ge=0)] | None = None
    top1_min: Annotated[float, Field(ge=0, le=1)] | None = None
    unknown: Literal["refuse", "admit"] = "refuse"


class Budget(Part):
    """The most that a deployment may cost and draw. price_per_hour: USD; watts: limit of all its devices
    together."""

    price_per_hour: Annotated[float, Field(gt=0)] | None = None
    watts: Annotated[float, Field(gt=0)] | None = None


class ExplorePlan(Part):
    """What is searched. Every list is one axis of the space; an axis left out stays as the plan has it.

    devices: modelled devices (default: the plan's); counts: how many of one device; tp, pp, dp, ep: degrees
    that are allowed (default: all that make the count; ep: only where the model has experts). precisions,
    weights, cache_formats, max_num_seqs, max_num_batched_tokens, concurrency, rate: as the plan's fields of
    that name. techniques: sets of techniques; `name:key=a|b` stands for one set with each value. Of a
    technique over several instances, counts and degrees are those of one instance, and dp is 1.

    slo: limits of latencies, by `<ttft|tpot>_<mean|p50|p90|p99>` or `e2e_mean`. objectives: what is best, the
    most important first: cost (USD per million generated tokens), energy (J per generated token), latency
    (mean seconds of a whole request), throughput (generated tokens per second). prices: USD per device and
    hour, in place of those of the device files.

    search: "enumerate" goes through all candidates, "nsga2" through `evaluations` of them that a genetic
    algorithm chooses, "auto" enumerates up to ENUMERATED. winners: how many of the best are simulated in
    full.
    """

    devices: tuple[str, ...] = ()
    counts: Choice = (1, 2, 4, 8)
    tp: Choice | None = None
    pp: Choice | None = None
    dp: Choice | None = None
    ep: Choice | None = None
    precisions: tuple[Literal["auto", "fp32", "bf16", "fp16"], ...] = ()
    weights: tuple[str, ...] = ()
    cache_formats: tuple[str, ...] = ()
    techniques: Annotated[
        tuple[tuple[TechniqueUse, ...], ...], BeforeValidator(_alternatives), Field(min_length=1)
    ] = ((),)
    max_num_seqs: tuple[PositiveInt, ...] = ()
    max_num_batched_tokens: tuple[PositiveInt, ...] = ()
    concurrency: tuple[PositiveInt, ...] = ()
    rate: tuple[Rate, ...] = ()
    slo: dict[LatencyLimit, Annotated[float, BeforeValidator(_seconds)]] = Field(default_factory=dict)
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = ("cost", "energy", "latency")
    quality: QualityFloor = Field(default_factory=QualityFloor)
    budget: Budget = Field(default_factory=Budget)
    prices: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    search: Literal["auto", "enumerate", "nsga2"] = "auto"
    evaluations: PositiveInt = 4000
    winners: PositiveInt = 6

    @field_validator("slo", mode="before")
    @classmethod
    def _known_limits(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key not in get_args(LatencyLimit):
                raise ValueError(f"unknown limit {key!r}; {nearest(str(key), get_args(LatencyLimit))}")
        return value

    @model_validator(mode="after")
    def _each_once(self) -> ExplorePlan:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if isinstance(values, tuple) and len({repr(v) for v in values}) < len(values):
                raise ValueError(f"{name} names a value twice; name each once")
        if self.rate and self.concurrency:
            raise ValueError("give rate or concurrency, not both: requests arrive one way or the other")
        return self


class Exploration(NamedTuple):
    """A plan and what to search around it."""

    plan: Plan
    explore: ExplorePlan


def load_exploration(path: str | Path) -> Exploration:
    """The plan in a YAML file with its `explore` section. ValueError where either does not fit, where the
    section is missing, or where no device is named."""
    values = read_values(path)
    if not isinstance(values, dict) or SECTION not in values:
        raise ValueError(
            f"{path} has no section `{SECTION}`, which says what to search (see docs/explore.md)"
        )
    section = values.pop(SECTION)
    return make_exploration(Plan.from_dict(values, str(path)), section, f"{path}: {SECTION}")


def make_exploration(plan: Plan, section: Any, where: str = SECTION) -> Exploration:
    """`plan` with the validated `section`; ValueError as `load_exploration`."""
    if not isinstance(section, dict):
        raise ValueError(f"{where} is a mapping of what to search, not {type(section).__name__}")
    try:
        explore = ExplorePlan.model_validate(section)
    except ValidationError as error:
        raise ValueError("\n".join(f"{where}: {_explain(e)}" for e in error.errors())) from None
    if not explore.devices:
        if not plan.devices:
            raise ValueError(f"{where}: devices names none; `twofold devices` lists them")
        explore = explore.model_copy(update={"devices": plan.devices})
    if (explore.rate or explore.concurrency) and plan.workload.trace is not None:
        raise ValueError(f"{where}: a trace has its own arrivals; drop rate and concurrency, or the trace")
    return Exploration(plan, explore)


_PARTS: dict[str, type[Part]] = {"quality": QualityFloor, "budget": Budget}


def _explain(error: Any) -> str:
    """One validation error in words."""
    place = [str(part) for part in error["loc"]]
    path = ".".join(place)
    if error["type"] == "extra_forbidden":
        fields = _PARTS[place[0]].model_fields if len(place) > 1 else ExplorePlan.model_fields
        return f"unknown key {path!r}; {nearest(place[-1], fields)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message
