"""The measured times of a data folder, sorted into those that parameters are fitted to and those that are
held out.

Tables of layers and of products train on every other number of rows (tokens), tables of single operators on
every other line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from twofold.devices.catalog import get_device
from twofold.measured.linear_ops import PATTERN as LAYERS
from twofold.measured.linear_ops import find_linear_ops
from twofold.measured.operators import PATTERNS, PRODUCTS, find_operators, find_products
from twofold.measured.ops import Timed, layer_ops, operator_ops, product_ops

ALL_PATTERNS = (LAYERS, PRODUCTS, *PATTERNS)


@dataclass(frozen=True, slots=True)
class Point:
    """A measured op of the table `source`; fitted: whether parameters are fitted to it."""

    source: str
    timed: Timed
    fitted: bool


def read_points(folder: Path) -> list[Point]:
    """Every measured op in `folder`. ValueError for a table that cannot be read, or of an unknown GPU."""
    return [*read_layers(folder), *read_products(folder), *read_operators(folder)]


def read_layers(folder: Path) -> list[Point]:
    """The operations of the tables of layers."""
    return [p for path in find_linear_ops(folder) for p in _every_other(path, layer_ops(path))]


def read_products(folder: Path) -> list[Point]:
    """The products of serving software."""
    return [p for path in find_products(folder) for p in _every_other(path, product_ops(path))]


def read_operators(folder: Path) -> list[Point]:
    """The single operators."""
    return [
        Point(path.name, timed, number % 2 == 0)
        for path in find_operators(folder)
        for number, timed in enumerate(operator_ops(path))
    ]


def _every_other(path: Path, timed: Iterable[Timed]) -> Iterator[Point]:
    found = list(timed)
    used = set(sorted({t.rows for t in found})[::2])
    for t in found:
        yield Point(path.name, t, t.rows in used)


def by_generation(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The points by the generation of their device."""
    found: dict[str, list[Point]] = {}
    generations: dict[str, str] = {}
    for point in points:
        device = point.timed.device
        if device not in generations:
            generations[device] = get_device(device).generation
        found.setdefault(generations[device], []).append(point)
    return found
