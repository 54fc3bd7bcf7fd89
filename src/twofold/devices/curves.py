"""Measured curves: values between measured points, kept physical."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import exp, log


class Curve:
    """Straight lines between points on logarithmic scales; constant beyond the ends.

    xs, ys: the points, ascending in x, all positive.
    """

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        assert len(xs) == len(ys) > 0
        self._x = [log(x) for x in xs]
        self._y = [log(y) for y in ys]

    @classmethod
    def bandwidth(cls, points: Sequence[tuple[float, float]]) -> Curve:
        """Bytes/s by working set: never rises with the working set (what a larger one reaches, a smaller
        one can)."""
        xs, ys = zip(*points, strict=True)
        falling = list(ys)
        for i in range(len(falling) - 2, -1, -1):
            falling[i] = max(falling[i], falling[i + 1])
        return cls(xs, falling)

    @classmethod
    def rate(cls, points: Sequence[tuple[float, float]]) -> Curve:
        """FLOP/s by rows: rises at most in proportion to the rows (more rows never take less time)."""
        xs, ys = zip(*points, strict=True)
        physical = list(ys)
        for i in range(1, len(physical)):
            physical[i] = min(physical[i], physical[i - 1] * xs[i] / xs[i - 1])
        return cls(xs, physical)

    def __call__(self, x: float) -> float:
        """The value at x > 0."""
        position = log(x)
        i = bisect_left(self._x, position)
        if i == 0:
            return exp(self._y[0])
        if i == len(self._x):
            return exp(self._y[-1])
        share = (position - self._x[i - 1]) / (self._x[i] - self._x[i - 1])
        return exp(self._y[i - 1] + share * (self._y[i] - self._y[i - 1]))
