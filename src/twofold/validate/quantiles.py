"""Quantiles of residuals for intervals that also hold for the next point: conformal prediction.

Folds count alike, however many points each has (Dunn, Wasserman, Ramdas, "Distribution-free prediction sets
for two-layer hierarchical models", 2022: pooled distributions). The next point may lie beyond all others with
probability 1 / (n + 1) (Vovk, Gammerman, Shafer, "Algorithmic learning in a random world", 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
LEAST = 0.01  # ln; repeats of a measurement differ by about a percent, so no interval is narrower

Array = NDArray[np.float64]


def bounds(folds: Sequence[Array], level: float = LEVEL) -> tuple[float, float]:
    """Quantiles of the residuals in `folds` between which the next residual lies with probability `level`;
    below and above zero.

    Where the points are too few for one quantile per side, the interval is symmetric.
    """
    tail = (1 - level) / 2
    high = _upper(folds, 1 - tail)
    low = _upper([-fold for fold in folds], 1 - tail)
    if high is None or low is None:
        high = low = reach([np.abs(fold) for fold in folds], level)
    return -max(low, LEAST), max(high, LEAST)


def reach(folds: Sequence[Array], level: float = LEVEL) -> float:
    """The size under which the next of the positive sizes in `folds` lies with probability `level`.

    Where even the largest of n is too small for that (it covers n / (n + 1)), the rest is taken from the tail
    of a normal distribution.
    """
    found = _upper(folds, level)
    if found is not None:
        return found
    n = sum(len(fold) for fold in folds)
    normal = NormalDist()
    missing = normal.inv_cdf((1 + level) / 2) / normal.inv_cdf((1 + n / (n + 1)) / 2)
    return float(max(fold.max() for fold in folds)) * missing


def _upper(folds: Sequence[Array], share: float) -> float | None:
    """The smallest value that at least `share` of the weight lies at or below, 1 / (n + 1) of it at infinity;
    None where that is beyond the largest value."""
    values = np.concatenate(folds)
    weights = np.concatenate([np.full(len(fold), 1 / len(fold) / len(folds)) for fold in folds])
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order]) * len(values) / (len(values) + 1)
    index = int(np.searchsorted(total, share - 1e-12))
    return float(values[order[index]]) if index < len(values) else None
