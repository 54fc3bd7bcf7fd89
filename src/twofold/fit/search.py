"""A pattern search (Hooke and Jeeves, "Direct search solution of numerical and statistical problems", JACM
1961): one parameter at a time, then once more along what a round has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import exp, log
from random import Random

Values = dict[str, float]
Bounds = Mapping[str, tuple[float, float]]

_STEP, _GROW, _SHRINK = 0.3, 1.3, 0.5
_SMALLEST = 0.01


def search(
    loss: Callable[[Values], float],
    start: Values,
    bounds: Bounds,
    *,
    starts: int = 4,
    rounds: int = 15,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Values, float]:
    """The values within `bounds` with the least `loss`, and that loss: the best of searches from `start` and
    from `starts` - 1 places drawn by a fixed seed. All values are positive: steps are factors.

    progress(done, starts) is called before each search.
    """
    random = Random(0)
    best: tuple[Values, float] | None = None
    for number in range(starts):
        if progress is not None:
            progress(number, starts)
        place = start if number == 0 else _anywhere(random, start, bounds)
        found = _search(
            loss, {name: _within(value, bounds[name]) for name, value in place.items()}, bounds, rounds
        )
        if best is None or found[1] < best[1]:
            best = found
    assert best is not None, "a search needs a start"
    return best


def _search(
    loss: Callable[[Values], float], values: Values, bounds: Bounds, rounds: int
) -> tuple[Values, float]:
    steps = dict.fromkeys(values, _STEP)
    best = loss(values)
    for _ in range(rounds):
        before = values
        for name, step in steps.items():
            if abs(step) < _SMALLEST:
                continue
            for signed in (step, -step):
                tried = values | {name: _within(values[name] * exp(signed), bounds[name])}
                found = loss(tried)
                if found < best * (1 - 1e-6):
                    values, best = tried, found
                    steps[name] = signed * _GROW
                    break
            else:
                steps[name] = step * _SHRINK
        further = {
            name: _within(value * value / before[name], bounds[name]) for name, value in values.items()
        }
        if further != values and (found := loss(further)) < best:
            values, best = further, found
        if all(abs(step) < _SMALLEST for step in steps.values()):
            break
    return values, best


def _anywhere(random: Random, names: Values, bounds: Bounds) -> Values:
    return {name: exp(random.uniform(log(bounds[name][0]), log(bounds[name][1]))) for name in names}


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])
