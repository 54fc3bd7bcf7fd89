"""How far a prediction may be off: intervals from the residuals of the validation, wider for what is further
from anything that was measured.

A residual is ln(measured / predicted). The interval of a prediction reaches from its 5 % to its 95 % quantile
and grows, on both sides alike, by one factor per step away from the validated cases: another model, device,
generation, kind of machine or precision, and every doubling of size beyond the largest. `twofold validate
--write-intervals` writes the table; each factor in it says whether it was estimated or assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal, get_args

import yaml
from pydantic import Field

from twofold.devices.figures import Strict

Quantity = Literal["op", "ttft", "tpot", "e2e", "throughput", "energy"]
Step = Literal["model", "device", "generation", "kind", "precision", "size", "quantity"]
STEPS: tuple[Step, ...] = get_args(Step)
_PLACES: tuple[Step, ...] = ("kind", "generation", "device")
Confidence = Literal["measured", "calibrated", "datasheet", "not validated"]
NOT_VALIDATED: Confidence = "not validated"
FILE = "residuals.yaml"

# Whose residuals stand for a quantity that was never measured, the likest first.
LIKE: dict[Quantity, tuple[Quantity, ...]] = {
    "op": ("tpot", "throughput"),
    "tpot": ("throughput", "op", "e2e"),
    "ttft": ("e2e", "op", "tpot"),
    "e2e": ("throughput", "tpot", "ttft", "op"),
    "throughput": ("tpot", "e2e", "op"),
    "energy": ("throughput", "tpot", "op"),
}


class Residuals(Strict):
    """The 5 % and 95 % quantiles of ln(measured / predicted) of one quantity. points, folds: what they come
    from, a fold being one model on one device in one group."""

    low: float = Field(lt=0)
    high: float = Field(gt=0)
    points: int = Field(ge=1)
    folds: int = Field(ge=1)


class Widening(Strict):
    """By what a step widens an interval, and how that is known."""

    factor: float = Field(ge=1)
    basis: str


class Validated(Strict):
    """What was compared with measurements: hardware, precision, and the largest sizes (tokens: rows
    of an op or sequences in flight; context: tokens of a sequence; 0 where no size is known)."""

    label: str
    quantity: Quantity
    kind: str
    generation: str
    device: str
    precision: str
    tokens: float = 0.0
    context: float = 0.0


class Table(Strict):
    """The residuals of a validation. residuals: by confidence of the predictions, then by quantity."""

    source: str
    level: float = Field(gt=0, lt=1)
    residuals: dict[str, dict[Quantity, Residuals]]
    steps: dict[Step, Widening]
    validated: list[Validated]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is predicted, as far as trust depends on it; see `Validated`. label: of the device's figures."""

    label: Confidence
    kind: str
    generation: str
    device: str
    precision: str
    tokens: float = 0.0
    context: float = 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """An interval: the prediction times `low` to the prediction times `high`; `steps`: what widened it."""

    low: float
    high: float
    steps: tuple[str, ...] = ()


@cache
def shipped() -> Table:
    """The table that comes with the package."""
    path = resources.files("twofold.devices") / "catalog" / "shared" / FILE
    return Table(**yaml.safe_load(path.read_text(encoding="utf-8")))


_PRECISIONS = (
    ("int4", "int4"),
    ("q4", "int4"),
    ("fp4", "fp4"),
    ("int8", "int8"),
    ("q8", "int8"),
    ("fp8", "fp8"),
    ("16", "16 bit"),
    ("32", "fp32"),
)


def same_precision(name: str) -> str:
    """The class of a precision or weight format: what costs the same has one name ("fp16" and "bf16" are
    "16 bit", "int4wo-32" and "q4_0" are "int4")."""
    lower = name.lower()
    return next((common for part, common in _PRECISIONS if part in lower), lower)


def confidence_of(standing: Standing, table: Table | None = None) -> Confidence:
    """`standing.label`, or "not validated" where no prediction for such a machine was ever compared with a
    measurement. A calibrated device was measured itself."""
    entries = (table or shipped()).validated
    known = any(e.label == standing.label and e.kind == standing.kind for e in entries)
    return standing.label if known or standing.label == "calibrated" else NOT_VALIDATED


def spread(quantity: Quantity, standing: Standing, table: Table | None = None) -> Spread:
    """The interval of a prediction of `quantity`."""
    table = table or shipped()
    label = standing.label if standing.label in table.residuals else _first(table)
    used = _measured(quantity, table.residuals[label])
    residuals = table.residuals[label][used]
    low, high = residuals.low, residuals.high
    if (used == "throughput") != (quantity == "throughput"):  # a rate is the inverse of a time
        low, high = -high, -low
    entries = [e for e in table.validated if e.quantity == used and e.label == label]
    excess, names = 0.0, []
    for step, times in _steps(quantity, used, standing, entries):
        widening = table.steps[step].factor ** times
        if widening > 1.005:
            excess += widening**2 - 1  # errors of different causes: their variances add
            names.append(f"{step} ×{widening:.2f}")
    low, high = grown(low, high, math.sqrt(1 + excess))
    return Spread(math.exp(low), math.exp(high), tuple(names))


def grown(low: float, high: float, factor: float) -> tuple[float, float]:
    """An interval of residuals made `factor` times as wide, by as much below as above: what is off to one
    side where it was measured may be off to the other elsewhere."""
    more = (factor - 1) * (high - low) / 2
    return low - more, high + more


def _first(table: Table) -> str:
    """The residuals for predictions of a confidence that was never validated: the datasheets', if any."""
    return "datasheet" if "datasheet" in table.residuals else next(iter(table.residuals))


def _measured(quantity: Quantity, residuals: Iterable[Quantity]) -> Quantity:
    """`quantity`, or the likest one that was measured."""
    there = set(residuals)
    return next((q for q in (quantity, *LIKE[quantity]) if q in there), min(there))


def _steps(
    quantity: Quantity, used: Quantity, standing: Standing, entries: list[Validated]
) -> Iterator[tuple[Step, float]]:
    """The steps from what was validated to what is predicted, and how often each is taken."""
    yield "model", 1.0
    if used != quantity:
        yield "quantity", 1.0
    near = entries
    for step in _PLACES:
        same = [e for e in near if getattr(e, step) == getattr(standing, step)]
        if not same:  # who leaves a kind leaves the generation and the device as well
            for further in _PLACES[_PLACES.index(step) :]:
                yield further, 1.0
            break
        near = same
    if same_precision(standing.precision) not in {same_precision(e.precision) for e in near}:
        yield "precision", 1.0
    octaves = 0.0
    for name in ("tokens", "context"):
        largest = max((getattr(e, name) for e in entries), default=0.0)
        if largest and getattr(standing, name) > largest:
            octaves += math.log2(getattr(standing, name) / largest)
    if octaves:
        yield "size", octaves
