"""What the benchmarks of operators share: aiconfigurator-core's tables, errors in a line, and a search."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from statistics import mean, quantiles
from typing import Any, TypeVar

SectionT = TypeVar("SectionT")


def data_folder() -> Path:
    """The tables of the installed package aiconfigurator-core (NVIDIA, Apache-2.0)."""
    return Path(str(resources.files("aiconfigurator_core"))) / "systems" / "data"


def newest(folder: Path) -> Path:
    """The folder of the newest version in it."""
    return max(folder.iterdir(), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def line(name: str, ratios: list[float]) -> str:
    """Number of points, mean absolute error, its 90th percentile and the bias, in percent, of predicted over
    measured seconds."""
    errors = [abs(r - 1) * 100 for r in ratios]
    p90 = quantiles(errors, n=10)[-1] if len(errors) > 1 else errors[0]
    bias = mean(ratios) * 100 - 100
    return f"{name:60} {len(ratios):5d}  MAPE {mean(errors):5.1f} %  p90 {p90:5.1f} %  bias {bias:+5.1f} %"


def search(
    section: SectionT,
    names: Iterable[str],
    loss: Callable[[SectionT], float],
    ceilings: Mapping[str, float],
) -> SectionT:
    """`section` with the figures of the dotted `names` changed, one at a time and by ever smaller factors,
    until no change lowers the loss; a figure stays below its ceiling."""
    best, least, step = section, loss(section), 0.2
    while step > 0.005:
        improved = False
        for name in names:
            for factor in (1 + step, 1 / (1 + step)):
                candidate = scaled(best, name, factor, ceilings.get(name))
                tried = loss(candidate)
                if tried < least - 1e-6:
                    best, least, improved = candidate, tried, True
        if not improved:
            step /= 2
    return best


def scaled(part: Any, name: str, factor: float, ceiling: float | None) -> Any:
    """`part` with the figure of the dotted `name` multiplied, where it has it."""
    head, _, rest = name.partition(".")
    old = getattr(part, head)
    if old is None:
        return part
    if rest:
        return part.model_copy(update={head: scaled(old, rest, factor, ceiling)})
    value = old.value * factor if ceiling is None else min(old.value * factor, ceiling)
    return part.model_copy(update={head: old.model_copy(update={"value": value})})


def show(section: Any, names: Iterable[str]) -> str:
    """The figures of the dotted `names`, where the section has them."""
    parts = []
    for name in names:
        part = section
        for key in name.split("."):
            part = None if part is None else getattr(part, key)
        if part is not None:
            parts.append(f"{name} {part.value:.3g}")
    return ", ".join(parts)
