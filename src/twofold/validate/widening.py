"""By how much intervals widen with every step away from what was measured: what leaving it out shows, or an
assumption where nothing shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from twofold.devices.uncertainty import LIKE, Step, Widening
from twofold.validate.folds import Fold, by_quantity
from twofold.validate.quantiles import Array, bounds, reach

_ASSUMED: dict[Step, float] = {
    "model": 1.25,
    "device": 1.25,
    "generation": 1.5,
    "kind": 2.0,
    "precision": 1.25,
    "size": 1.1,
    "quantity": 1.5,
}
"""Taken where the data say nothing; each is a judgement, and the table calls it assumed."""

Unit = Callable[[Fold], object]


def widenings(folds: Sequence[Fold]) -> dict[Step, Widening]:
    """The factor of every step. Those from a device to its generation and kind follow each other, so each is
    what is needed beyond the ones before."""
    model = _needed(left_out(folds, lambda f: f.name, lambda f: f.device), "model")
    steps: dict[Step, Widening] = {"model": model}
    before = model.factor
    device = list(left_out(folds, lambda f: f.device, lambda f: f.generation))
    generation = list(left_out(folds, lambda f: f.generation, lambda f: f.kind))
    if generation and not device:
        half = max(1.0, reach(generation) / before) ** 0.5
        basis = "assumed: half the step to another generation; no two devices of one generation were measured"
        steps["device"] = Widening(factor=_rounded(half), basis=basis)
    else:
        steps["device"] = _needed(device, "device", before)
    before *= steps["device"].factor
    steps["generation"] = _needed(generation, "generation", before)
    before *= steps["generation"].factor
    steps["kind"] = _needed(left_out(folds, lambda f: f.kind, lambda f: None), "kind", before)
    precision = left_out(folds, lambda f: f.precision, lambda f: f.device)
    steps["precision"] = _needed(precision, "precision", model.factor)
    steps["quantity"] = _needed(_stand_ins(folds), "quantity", model.factor)
    steps["size"] = _size(folds, model.factor)
    return steps


def left_out(folds: Sequence[Fold], unit: Unit, near: Unit) -> Iterator[Array]:
    """Scores of each unit by the interval of all others of its quantity, where one of them is `near` it."""
    for same in by_quantity(folds).values():
        for name in dict.fromkeys(map(unit, same)):
            ours = [f for f in same if unit(f) == name]
            rest = [f for f in same if unit(f) != name]
            if any(near(f) == near(ours[0]) for f in rest):
                residuals = np.concatenate([f.residuals for f in ours])
                yield _scores(residuals, *bounds([f.residuals for f in rest]))


def _scores(residuals: Array, low: float, high: float) -> Array:
    """How many times as wide the interval would have to be to contain each residual; the inverse of
    `uncertainty.grown`."""
    beyond = np.maximum(residuals - high, low - residuals)
    scores: Array = np.maximum(1 + beyond / ((high - low) / 2), 0.0)
    return scores


def _needed(scores: Iterator[Array] | Sequence[Array], step: Step, before: float = 1.0) -> Widening:
    """The factor that lets an interval made without a unit contain its points, beyond the factor `before`."""
    found = list(scores)
    if not found:
        return Widening(factor=_ASSUMED[step], basis="assumed: no data")
    factor = max(1.0, reach(found) / before)
    return Widening(factor=_rounded(factor), basis=f"estimated: {len(found)} times one {step} left out")


def _rounded(factor: float) -> float:
    return math.ceil(factor * 100) / 100


def _stand_ins(folds: Sequence[Fold]) -> Iterator[Array]:
    """Scores of each quantity by the interval of the one that would stand for it."""
    by = by_quantity(folds)
    for (label, quantity), found in by.items():
        other = next((q for q in LIKE[quantity] if (label, q) in by), None)
        if other is not None:
            low, high = bounds([f.residuals for f in by[label, other]])
            if (quantity == "throughput") != (other == "throughput"):
                low, high = -high, -low
            yield _scores(np.concatenate([f.residuals for f in found]), low, high)


def _size(folds: Sequence[Fold], before: float) -> Widening:
    """The factor per doubling beyond the largest size: points within a factor of four of the largest, judged
    by the interval of the smaller ones."""
    factors = []
    for same in by_quantity(folds).values():
        for pairs in ([(f.residuals, f.tokens) for f in same], [(f.residuals, f.context) for f in same]):
            edge = max(float(size.max()) for _, size in pairs) / 4
            small = [r[chosen] for r, size in pairs if (chosen := (size > 0) & (size <= edge)).any()]
            large = [(r[chosen], size[chosen]) for r, size in pairs if (chosen := size > edge).any()]
            if len(small) < 2 or sum(len(values) for values, _ in large) < 10:
                continue
            low, high = bounds(small)
            scores = [_scores(residuals, low, high) for residuals, _ in large]
            octaves = float(np.mean(np.log2(np.concatenate([sizes for _, sizes in large]) / edge)))
            factors.append(max(1.0, reach(scores) / before) ** (1 / octaves))
    if not factors:
        return Widening(factor=_ASSUMED["size"], basis="assumed: no data")
    basis = f"estimated: median of {len(factors)} times the largest sizes left out"
    return Widening(factor=_rounded(float(np.median(factors))), basis=basis)
