"""What parts of a machine do for an op, and how parts work one after the other or side by side."""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """seconds: from the first input to the last output; joules: dynamic energy by part; path: those seconds
    by the part that everything else waits for."""

    seconds: float = 0.0
    joules: dict[str, float] = {}  # noqa: RUF012 (no Work changes it)
    path: dict[str, float] = {}  # noqa: RUF012

    @classmethod
    def of(cls, part: str, seconds: float, joules: float = 0.0) -> Work:
        """Work of one part."""
        return cls(seconds, {part: joules} if joules else {}, {part: seconds})

    def then(self, other: Work) -> Work:
        """This, then `other`, which waits for its results."""
        return Work(
            self.seconds + other.seconds, _sum(self.joules, other.joules), _sum(self.path, other.path)
        )

    def beside(self, *others: Work) -> Work:
        """This and `others` at the same time: pipelined, the slowest hides all others."""
        slowest, joules = self, self.joules.copy()
        for other in others:
            if other.seconds > slowest.seconds or not slowest.path:
                slowest = other
            for part, value in other.joules.items():
                joules[part] = joules.get(part, 0.0) + value
        return Work(slowest.seconds, joules, slowest.path)

    def __mul__(self, times: object) -> Work:
        """The same work `times` times in a row."""
        assert isinstance(times, float | int)
        joules, path = ({part: value * times for part, value in each.items()} for each in self[1:])
        return Work(self.seconds * times, joules, path)

    @property
    def bound(self) -> str:
        """The part that is waited for the longest, one thing after the other; empty where there is none."""
        return max(self.path, key=self.path.__getitem__) if self.path else ""

    @property
    def total_joules(self) -> float:
        """Of all parts."""
        return sum(self.joules.values())


def _sum(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    if not other:
        return one
    if not one:
        return other
    total = one.copy()
    for part, value in other.items():
        total[part] = total.get(part, 0.0) + value
    return total


NOTHING = Work()
"""No work: what an op takes that a machine passes through."""

PARTS: dict[str, str] = {
    "array": "compute",  # systolic arrays, processing elements, DSPs, a GPU's matrix units
    "vector": "compute",
    "top-k": "compute",  # engines that select the largest
    "attention": "compute",  # units that do nothing else
    "logic-die": "compute",  # units on the logic die of an HBM stack
    "in-flash": "compute",
    "in-bank": "memory",  # units in DRAM banks: their time is that of rows and columns
    "ecc": "compute",
    "dram": "memory",
    "flash": "memory",
    "sram": "memory",
    "mesh": "link",
    "link": "link",
    "host": "overhead",
}
"""The parts of machines, and what an op is bound by that waits for one."""
