"""The parameters of a generation that are fitted, their meaning, and the ops that tell them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from twofold.devices.efficiency.elementwise import kernel_of
from twofold.devices.efficiency.products import is_narrow
from twofold.devices.figures import Figure, Strict
from twofold.devices.schema import Efficiency
from twofold.measured.ops import Timed
from twofold.ops.formats import get_format
from twofold.ops.linear import Linear

_PACE = "elementwise.pace."

PartT = TypeVar("PartT", bound=Strict)


@dataclass(frozen=True, slots=True)
class Parameter:
    """path: its place in the file; low, high: where it is looked for; unit: as the file writes it, of SI
    numbers times `scale`."""

    path: str
    meaning: str
    low: float
    high: float
    unit: str = ""
    scale: float = 1.0

    def write(self, value: float) -> str:
        """The value as a file writes it, to three digits."""
        return f"{float(f'{value * self.scale:.3g}'):g}" + (f" {self.unit}" if self.unit else "")


def _share(path: str, meaning: str, low: float = 0.3) -> Parameter:
    return Parameter(path, meaning, low, 0.98)


def _time(path: str, meaning: str, low: float, high: float) -> Parameter:
    return Parameter(path, meaning, low, high, "us", 1e6)


def _rate(path: str, meaning: str, low: float, high: float) -> Parameter:
    return Parameter(path, meaning, low, high, "GB/s", 1e-9)


@dataclass(frozen=True, slots=True)
class Stage:
    """Parameters that are searched together, on the points that they matter to."""

    name: str
    wants: Callable[[Timed], bool]
    parameters: tuple[Parameter, ...]


def _linear(timed: Timed) -> Linear | None:
    return timed.op if isinstance(timed.op, Linear) else None


def _half(timed: Timed) -> bool:
    op = _linear(timed)
    return op is not None and get_format(op.format).bits == 16


def _rounded(timed: Timed) -> bool:
    op = _linear(timed)
    return op is not None and is_narrow(op.compute)


STAGES = (
    Stage(
        "products",
        _half,
        (
            _share("products.matrix", "share of the peak matrix rate while a tile goes over the depth"),
            Parameter("products.memory", "share of the memory bandwidth for weights", 0.5, 0.93),
            Parameter("products.overlap", "norm that adds compute and memory time (1: in turn)", 1.5, 6.0),
            _time("products.launch", "per product, whatever it does", 0.5e-6, 3e-6),
            _time("products.ramp", "of a unit per tile, beside the main loop", 0.1e-6, 3e-6),
            _rate("products.feed", "that one unit draws from the cache", 20e9, 400e9),
            _rate("products.pull", "that one unit draws from memory", 25e9, 100e9),
            Parameter("products.split", "least depth of a part where the depth is split", 32, 2048),
            _time("products.merge", "to merge what was split", 0.2e-6, 8e-6),
            Parameter(
                "products.joules", "of a FLOP at full clock: power limits", 0.1e-12, 5e-12, "pJ/FLOP", 1e12
            ),
        ),
    ),
    Stage(
        "products in 8 bits",
        _rounded,
        (_share("products.narrow", "share of `matrix` that products of fewer than 16 bits keep", 0.2),),
    ),
    Stage(
        "streams",
        lambda timed: _linear(timed) is None and kernel_of(timed.op) is None,
        (
            _share("elementwise.memory", "share of the memory bandwidth", 0.5),
            _share("elementwise.cache", "share of the cache's bandwidth"),
            _time("elementwise.launch", "per op, whatever it does", 0.3e-6, 5e-6),
        ),
    ),
    Stage(
        "kernels bound by units",
        lambda timed: _linear(timed) is None and kernel_of(timed.op) is not None,
        (
            _time("elementwise.reduce", "more where rows are reduced", 0.1e-6, 6e-6),
            _rate("elementwise.pace.norm", "of one unit in root mean square norms", 1e9, 60e9),
            _rate("elementwise.pace.layer-norm", "of one unit in layer norms", 1e9, 60e9),
            _rate("elementwise.pace.softmax", "of one unit in softmax", 1e9, 60e9),
            _rate("elementwise.pace.activation", "of one unit in gated activations", 1e9, 60e9),
            _rate("elementwise.pace.rotary", "of one unit in rotations by position", 1e9, 60e9),
            _rate("elementwise.pace.gather", "of one unit in look-ups of rows", 0.5e9, 60e9),
        ),
    ),
)


def told_by(stage: Stage, points: Sequence[Timed]) -> tuple[Parameter, ...]:
    """The stage's parameters that any of the `points` tells: a kernel's pace only where that kernel ran."""
    kernels = {kernel_of(timed.op) for timed in points}
    return tuple(
        p for p in stage.parameters if not p.path.startswith(_PACE) or p.path.removeprefix(_PACE) in kernels
    )


PARAMETERS = {parameter.path: parameter for stage in STAGES for parameter in stage.parameters}


def value_of(efficiency: Efficiency, path: str) -> float | None:
    """The value at `path`; None where the file has none."""
    part: object = efficiency
    for name in path.split("."):
        part = part.get(name) if isinstance(part, dict) else getattr(part, name)
        if part is None:
            return None
    assert isinstance(part, Figure)
    return part.value


def with_values(efficiency: Efficiency, values: dict[str, float]) -> Efficiency:
    """`efficiency` with the values at those paths replaced."""
    for path, value in values.items():
        efficiency = _replaced(efficiency, path.split("."), value)
    return efficiency


def _replaced(part: PartT, names: list[str], value: float) -> PartT:
    name, *rest = names
    old = getattr(part, name)
    if isinstance(old, dict):
        new: object = old | {rest[0]: old[rest[0]].model_copy(update={"value": value})}
    elif rest:
        new = _replaced(old, rest, value)
    else:
        new = old.model_copy(update={"value": value})
    return part.model_copy(update={name: new})
