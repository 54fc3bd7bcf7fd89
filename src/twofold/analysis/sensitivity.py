"""Which figures of a machine move a result most: each number moved by a fifth, down and up, the others as
they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from twofold.devices.machine import Machine, numbers, with_number

STEP = 0.2
"""How far a number is moved, as a share of it."""


class Moved(NamedTuple):
    """The result with the number at `path` (now `value`) a fifth lower and a fifth higher; None where a
    machine cannot be built so."""

    path: str
    value: float
    lower: float | None
    higher: float | None

    def swing(self, result: float) -> float:
        """The larger change of the two, relative to `result`."""
        found = [abs(value / result - 1) for value in (self.lower, self.higher) if value is not None]
        return max(found, default=0.0)


def sensitivity(machine: type[Machine], result: Callable[[Machine], float]) -> tuple[float, list[Moved]]:
    """The `result` of the machine as it is, and with each of its numbers moved, the largest swing first.

    result: a positive figure for a machine. Whole numbers move by one at least.
    """
    usual = machine.make()
    middle = result(usual)

    def at(path: str, value: float) -> float | None:
        try:
            return result(machine.make(with_number(usual.figures, path, value)))
        except ValueError:  # figures that contradict each other, or a model that does not fit any more
            return None

    moved = [
        Moved(path, value, at(path, _step(value, -STEP)), at(path, _step(value, STEP)))
        for path, value in numbers(usual.figures).items()
        if value
    ]
    return middle, sorted(moved, key=lambda each: -each.swing(middle))


def _step(value: float, by: float) -> float:
    changed = value * (1 + by)
    if isinstance(value, int) and round(changed) == value:
        return value + (1 if by > 0 else -1)
    return changed
