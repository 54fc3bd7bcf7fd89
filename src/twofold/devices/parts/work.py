"""What parts of a machine do for an op, and how parts work one after the other or side by side."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Work:
    """seconds: from the first input to the last output; joules: dynamic energy by part; bound: the part that
    took the longest."""

    seconds: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)
    bound: str = ""

    @classmethod
    def of(cls, part: str, seconds: float, joules: float = 0.0) -> Work:
        """Work of one part."""
        return cls(seconds, {part: joules} if joules else {}, part)

    def then(self, other: Work) -> Work:
        """This, then `other`, which waits for its results."""
        return Work(self.seconds + other.seconds, _sum(self.joules, other.joules), self._longer(other))

    def beside(self, other: Work) -> Work:
        """This and `other` at the same time: pipelined, the slower of the two hides the faster."""
        return Work(max(self.seconds, other.seconds), _sum(self.joules, other.joules), self._longer(other))

    def __mul__(self, times: float) -> Work:
        """The same work `times` times in a row."""
        joules = {part: value * times for part, value in self.joules.items()}
        return Work(self.seconds * times, joules, self.bound)

    @property
    def total_joules(self) -> float:
        """Of all parts."""
        return sum(self.joules.values())

    def _longer(self, other: Work) -> str:
        return self.bound if self.seconds >= other.seconds else other.bound


def _sum(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return one | {part: one.get(part, 0.0) + joules for part, joules in other.items()}


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
