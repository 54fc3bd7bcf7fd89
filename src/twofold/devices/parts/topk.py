"""A top-k engine: finds the k largest of n numbers by quick-select, several numbers a cycle.

A random pivot splits what is left; the part that holds the k-th largest goes on (SpAtten, arXiv:2012.09852;
the cycles of a round are those of TopKLatencyModel.scala in github.com/mit-han-lab/spatten). What is expected
over random pivots is known in closed form: D. Knuth, "Mathematical analysis of algorithms", IFIP 1971, for
the comparisons; the rounds are records to either side of the k-th number. The tests hold both to the engine
played on random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from twofold.devices.parts.work import NOTHING, Work

_EULER = 0.5772156649015329

ROUND_CYCLES = 3
"""Of comparators, the removal of gaps, and the buffer, in each round."""


@dataclass(frozen=True, slots=True)
class TopK:
    """lanes: numbers that are compared with the pivot in a cycle; hertz; joules: of comparing one."""

    lanes: int
    hertz: float
    joules: float

    def __post_init__(self) -> None:
        if self.lanes < 1 or not self.hertz > 0 or self.joules < 0:
            raise ValueError(
                f"top-k engine: lanes and hertz must be positive and joules not negative, not {self.lanes}, "
                f"{self.hertz}, {self.joules}"
            )

    def cycles(self, n: int, k: int) -> float:
        """Expected, from the first number in to the k-th largest found; none where nothing is left out."""
        if k >= n:
            return 0.0
        return self._cycles(n, compared(n, k), rounds(n, k))

    def _cycles(self, n: int, seen: float, turns: float) -> float:
        # A row of `lanes` numbers is filled first; the last one of each round is half empty on average.
        half_row = (self.lanes - 1) / (2 * self.lanes)
        return -(-n // self.lanes) + seen / self.lanes + turns * (ROUND_CYCLES + half_row)

    def work(self, n: int, k: int, times: int = 1) -> Work:
        """Of `times` selections, one after the other."""
        if k >= n or times < 1:
            return NOTHING
        seen, turns = compared(n, k), rounds(n, k)
        cycles = self._cycles(n, seen, turns)
        return Work.of("top-k", cycles / self.hertz * times, seen * self.joules * times)


def rounds(n: int, k: int) -> float:
    """Expected pivots until the k-th largest of n numbers is one."""
    return _harmonic(k) + _harmonic(n + 1 - k) - 1


def compared(n: int, k: int) -> float:
    """Expected numbers that pass the comparators, pivots among them."""
    up, down = k, n + 1 - k
    with_pivots = (n + 1) * _harmonic(n) - (down + 2) * _harmonic(down) - (up + 2) * _harmonic(up) + n + 3
    return 2 * with_pivots + rounds(n, k)


def _harmonic(n: int) -> float:
    """1 + 1/2 + … + 1/n, to seven digits."""
    if n < 8:
        return sum(1 / i for i in range(1, n + 1))
    return log(n) + _EULER + 1 / (2 * n) - 1 / (12 * n * n)
