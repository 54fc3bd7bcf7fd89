"""Fitting the parameters of a generation, and how well they do on points that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log
from statistics import mean

from twofold.devices.catalog import get_device
from twofold.devices.roofline import Roofline
from twofold.devices.schema import Efficiency
from twofold.fit.parameters import STAGES, Stage, told_by, value_of, with_values
from twofold.fit.points import Point
from twofold.fit.search import search

Progress = Callable[[str, int, int], None]
_PER_TABLE = 400
"""Points of a table that a search looks at: every n-th of those that train."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of some points: how many, mean and 90th percentile of their size, and their mean."""

    points: int
    mape: float
    p90: float
    bias: float


@dataclass(frozen=True, slots=True)
class Row:
    """Errors of one operation of one table (operation "": all), at the points fitted to and held out."""

    source: str
    operation: str
    fitted: Errors | None
    held_out: Errors | None


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found for a generation. before, after: parameters by path; by_stage: errors, by table, of
    the points that each stage's parameters come from; rows: of all points, with the new parameters."""

    generation: str
    before: dict[str, float]
    after: dict[str, float]
    by_stage: dict[str, list[Row]]
    rows: list[Row]


def fit(
    generation: str, points: Sequence[Point], *, starts: int = 4, progress: Progress | None = None
) -> Fit:
    """Fit the parameters of `generation` to its `points` that train. A parameter that no point tells, or that
    the generation leaves out, stays as it is. Every table counts alike. ValueError where there are no
    points."""
    if not points:
        raise ValueError(f"no measurements of generation {generation!r}")
    efficiency = get_device(points[0].timed.device).efficiency
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    used: list[Stage] = []
    for stage in STAGES:
        train = [p for p in points if p.fitted and stage.wants(p.timed)]
        told = told_by(stage, [p.timed for p in train])
        paths = {q.path: value_of(efficiency, q.path) for q in told}
        start = {path: value for path, value in paths.items() if value is not None}
        if not train or not start:
            continue
        before |= start
        found = _search(stage, efficiency, train, start, starts, progress)
        efficiency = with_values(efficiency, found)
        after |= found
        used.append(stage)
    by_stage = {
        stage.name: [
            row
            for row in errors([p for p in points if stage.wants(p.timed)], efficiency)
            if not row.operation
        ]
        for stage in used
    }
    return Fit(generation, before, after, by_stage, errors(points, efficiency))


def _search(
    stage: Stage,
    efficiency: Efficiency,
    train: Sequence[Point],
    start: dict[str, float],
    starts: int,
    progress: Progress | None,
) -> dict[str, float]:
    tables: dict[str, list[Point]] = {}
    for point in train:
        tables.setdefault(point.source, []).append(point)
    tables = {name: some[:: -(-len(some) // _PER_TABLE)] for name, some in tables.items()}

    def loss(values: dict[str, float]) -> float:
        tried = with_values(efficiency, values)
        return mean(
            mean(
                abs(log(seconds / p.timed.seconds))
                for p, seconds in zip(some, predict(some, tried), strict=True)
            )
            for some in tables.values()
        )

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(stage.name, done, total)

    bounds = {q.path: (q.low, q.high) for q in stage.parameters}
    found, _ = search(loss, start, bounds, starts=starts, progress=told)
    return {q.path: _rounded(found[q.path]) for q in stage.parameters if q.path in found}


def _rounded(value: float) -> float:
    """To the three digits that a file keeps."""
    return float(f"{value:.3g}")


def predict(points: Iterable[Point], efficiency: Efficiency | None = None) -> list[float]:
    """Seconds of the points, with another efficiency than their generation's where one is given."""
    devices: dict[str, Roofline] = {}
    found = []
    for point in points:
        timed = point.timed
        device = devices.get(timed.device)
        if device is None:
            file = get_device(timed.device)
            device = Roofline(file.model_copy(update={"efficiency": efficiency}) if efficiency else file)
            devices[timed.device] = device
        if device.resident_bytes != timed.resident:
            device.resident_bytes = timed.resident
        found.append(device.charge(timed.op, timed.op.cost()).seconds + timed.host)
    return found


def errors(points: Sequence[Point], efficiency: Efficiency | None = None) -> list[Row]:
    """Errors by table and operation, and of each table as a whole."""
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for point, seconds in zip(points, predict(points, efficiency), strict=True):
        error = seconds / point.timed.seconds - 1.0
        for operation in (point.timed.operation, ""):
            lists = found.setdefault((point.source, operation), ([], []))
            lists[0 if point.fitted else 1].append(error)
    return [Row(*key, statistics(fitted), statistics(held)) for key, (fitted, held) in sorted(found.items())]


def statistics(some: Sequence[float]) -> Errors | None:
    """Statistics of relative errors; None of none."""
    if not some:
        return None
    sizes = sorted(abs(e) for e in some)
    return Errors(len(some), mean(sizes), sizes[int(0.9 * (len(sizes) - 1))], mean(some))
