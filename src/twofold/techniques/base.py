"""What a technique is: one published method, one file, one frozen dataclass of parameters, the seams it plugs
into, claims.

Seams are small protocols kept beside the code that calls them: `models.weights.WeightScheme`,
`models.cache.CacheScheme`, `models.attending.AttendingScheme`, `models.options.LayerSelection`,
`models.placement.Placement`, `engine.filter.PromptFilter`, `engine.draft.Drafter`, `engine.paging.Paging`,
`engine.retention.Retention`, `engine.policy.SchedulingPolicy`, `fleet.policy.FleetPolicy`. A technique
overrides the methods of the seams that it uses; the engine asks each technique for each seam.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from twofold.errors import nearest
from twofold.techniques.tags import ONLY_ONE

if TYPE_CHECKING:
    from twofold.devices.base import Device
    from twofold.engine.draft import Drafter
    from twofold.engine.filter import PromptFilter
    from twofold.engine.paging import Paging
    from twofold.engine.policy import SchedulingPolicy
    from twofold.engine.retention import Retention
    from twofold.engine.swapping import Swapping
    from twofold.fleet.policy import FleetPolicy
    from twofold.models.attending import AttendingScheme
    from twofold.models.cache import CacheScheme
    from twofold.models.options import LayerSelection
    from twofold.models.placement import Placement
    from twofold.models.spec import ModelSpec
    from twofold.models.transformer import Transformer
    from twofold.models.weights import WeightScheme

Seam = Literal["weights", "cache", "attention", "layers", "decoding", "scheduling", "placement", "parallel"]
Relation = Literal[">=", "<=", "=="]


@dataclass(frozen=True, slots=True)
class Claim:
    """A headline result of a source, as data.

    figure: what was measured ("decode throughput ratio"); claimed: (low, high) of the published figure;
    baseline, model, hardware: what it was measured with; setup: the name of the function in `claims.setups`
    that reproduces it (None where the comparison cannot be set up, with the reason in `why_not`).
    """

    key: str
    figure: str
    claimed: tuple[float, float]
    unit: str
    baseline: str
    model: str
    hardware: str
    source: str
    setup: str | None = None
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Info:
    """What a technique says of itself, as data: read by the planner, `--help`, the docs and the tests alike.

    lossless: greedy output equals the baseline's. behaviour: data-dependent quantities by name with the value
    that a prediction uses where none was recorded, and where that value comes from. needs: properties that
    the rest of the plan must have ("experts", "draft-model", "attention-scores" …). provides / excludes:
    which pairs work is derived from these: a technique that excludes a tag is refused beside one that
    provides it. reasons: why, and what to do instead, by tag, where `tags.ONLY_ONE` does not say it.
    """

    name: str
    title: str
    source: str
    summary: str
    seams: tuple[Seam, ...]
    lossless: bool
    needs: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    behaviour: dict[str, tuple[float, str]] = dataclasses.field(default_factory=dict)

    def reason(self, tag: str) -> str:
        """Why this technique is refused beside one that provides `tag`, and what to do instead."""
        return self.reasons.get(tag) or ONLY_ONE[tag]


@dataclass(frozen=True)
class Technique:
    """Base of all techniques. Subclasses are frozen dataclasses of the paper's parameters and set `info` and
    `claims`."""

    info: ClassVar[Info]
    claims: ClassVar[tuple[Claim, ...]] = ()

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> Technique:
        """The technique with `params` (parsed YAML or command-line values), each checked against the declared
        type."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in params:
            if key not in fields:
                raise ValueError(
                    f"technique {cls.info.name}: unknown parameter {key!r}; {nearest(key, fields)}"
                )
        return cls(**{k: _coerce(cls.info.name, fields[k], v) for k, v in params.items()})

    @property
    def params(self) -> dict[str, Any]:
        """All parameters with their values."""
        return dataclasses.asdict(self)

    # --- seams: a technique overrides those that it uses ---

    def check(self, spec: ModelSpec) -> None:
        """ValueError where this technique cannot work on `spec`, with the reason and the alternative."""

    @property
    def needs_calibration(self) -> bool:
        """Whether `calibrate` must run on the unmodified model before a real run."""
        return False

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """This technique with what it learned from running `model` over `token_ids` (a few hundred tokens of
        prose)."""
        del model, device, token_ids
        return self

    @property
    def calibration(self) -> Any:
        """What `calibrate` found out, which is no parameter; None before."""
        return self.__dict__.get("_calibration")

    def with_calibration(self, found: Any) -> Self:
        """A copy whose `calibration` is `found`."""
        copy = dataclasses.replace(self)
        object.__setattr__(copy, "_calibration", found)
        return copy

    def weight_scheme(self) -> WeightScheme | None:
        """How weights are stored."""
        return None

    def cache_scheme(self) -> CacheScheme | None:
        """How the cache is stored."""
        return None

    def attending_scheme(self) -> AttendingScheme | None:
        """How queries attend."""
        return None

    def retention(self) -> Retention | None:
        """Which cache entries stay."""
        return None

    def layer_selection(self) -> LayerSelection | None:
        """Which sublayers exist."""
        return None

    def prompt_filter(self) -> PromptFilter | None:
        """Which tokens of a prompt the model goes on with."""
        return None

    def drafter(self) -> Drafter | None:
        """Who guesses tokens for verification."""
        return None

    def paging(self) -> Paging | None:
        """What maps the cache's blocks into contiguous virtual memory."""
        return None

    def placement(self) -> Placement | None:
        """Where weights lie."""
        return None

    def scheduling_policy(self) -> SchedulingPolicy | None:
        """What runs next."""
        return None

    def swapping(self) -> Swapping | None:
        """How caches of preempted requests go to host memory and come back."""
        return None

    def fleet_policy(self) -> FleetPolicy | None:
        """Where requests run, and when they move, among several instances of the engine."""
        return None

    @property
    def label(self) -> str:
        """Short text for tables: the name and the parameters that differ from their defaults."""
        changed = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)
            if f.default is not dataclasses.MISSING and getattr(self, f.name) != f.default
        ]
        return self.info.name + (f"({', '.join(changed)})" if changed else "")


def _coerce(technique: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """`value` as the field's annotated type; text from a command line is converted, anything else must
    fit."""
    wanted = str(field.type)
    where = f"technique {technique}: {field.name}"
    if value is None and "None" in wanted:
        return None
    if "bool" in wanted:
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if isinstance(value, bool):
            return value
        raise ValueError(f"{where} must be true or false, not {value!r}")
    if isinstance(value, bool):
        raise ValueError(f"{where} must be {wanted}, not {value!r}")
    if wanted.startswith("tuple[int"):
        return _whole_numbers(where, value)
    try:
        if "int" in wanted.split(" |")[0]:
            number = int(value)
            if float(value) != number:
                raise ValueError
            return number
        if "float" in wanted:
            return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where} must be {wanted}, not {value!r}") from None
    return value


def _whole_numbers(where: str, value: Any) -> tuple[int, ...]:
    """A list, one number, or text such as "3;5;7" as a tuple of integers."""
    if isinstance(value, str):
        value = value.split(";")
    items = value if isinstance(value, list | tuple) else [value]
    try:
        numbers = tuple(int(item) for item in items)
        if any(isinstance(item, bool) or float(item) != n for item, n in zip(items, numbers, strict=True)):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f'{where} must be whole numbers, as a list or "3;5;7", not {value!r}') from None
    return numbers
