"""A learned model of product time beside the analytical one: a random forest on shape, tile and roofline
features.

The approach of gpperf-like predictors: features say how large the product is, how many tiles and waves it
makes on the device, and what its roofline asks; trees learn the rest. Needs scikit-learn (extra `learn`). A
tree answers with times that it has seen: it interpolates well and does not extrapolate, which
`benchmarks/learned_products.py` shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from math import ceil, exp, log
from typing import Any

from twofold.devices.catalog import get_device
from twofold.devices.efficiency.machine import Machine
from twofold.fit.points import Point
from twofold.ops.linear import Linear

TILES = ((64, 64), (128, 128), (256, 128))
FEATURES = (
    "log rows", "log depth", "log cols", "log FLOP", "log bytes", "log compute seconds", "log memory seconds",
    *(f"{what} {rows}x{cols}" for rows, cols in TILES for what in ("log tiles", "log waves", "last wave")),
)  # fmt: skip
_TREES = 100


def available() -> bool:
    """Whether scikit-learn is installed."""
    return find_spec("sklearn") is not None


def learnable(points: Sequence[Point]) -> list[Point]:
    """The dense products in 16 bits among `points`."""
    return [p for p in points if isinstance(p.timed.op, Linear) and p.timed.op.compute in ("fp16", "bf16")]


def features(point: Point) -> list[float]:
    """What the forest sees of a product on its device; see FEATURES."""
    op = point.timed.op
    assert isinstance(op, Linear)
    machine, peak = _machine(point.timed.device)
    rows, depth, cols = op.tokens, op.in_features, op.out_features
    cost = op.cost()
    found = [log(rows), log(depth), log(cols), log(cost.flop), log(cost.bytes_moved)]
    found += [log(cost.flop / peak), log(cost.bytes_moved / machine.memory_bandwidth)]
    for tile_rows, tile_cols in TILES:
        tiles = ceil(rows / tile_rows) * ceil(cols / tile_cols)
        waves = ceil(tiles / machine.units)
        found += [log(tiles), log(waves), tiles / (waves * machine.units)]
    return found


@cache
def _machine(device: str) -> tuple[Machine, float]:
    file = get_device(device)
    return Machine.of(file), file.matmul["fp16"].value


class LearnedProducts:
    """A random forest trained on `points`. ValueError where scikit-learn is missing or there is nothing to
    learn."""

    def __init__(self, points: Sequence[Point]) -> None:
        if not available():
            raise ValueError("a learned model needs scikit-learn: pip install 'twofold[learn]'")
        if not points:
            raise ValueError("no products to learn from")
        from sklearn.ensemble import RandomForestRegressor

        self._forest: Any = RandomForestRegressor(n_estimators=_TREES, min_samples_leaf=2, random_state=0)
        targets = [log(max(p.timed.seconds - p.timed.host, 1e-7)) for p in points]
        self._forest.fit([features(p) for p in points], targets)

    def predict(self, points: Sequence[Point]) -> list[float]:
        """Seconds of the points."""
        found = self._forest.predict([features(p) for p in points])
        return [exp(value) + p.timed.host for value, p in zip(found, points, strict=True)]
