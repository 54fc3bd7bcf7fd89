"""A vector unit of adders and multipliers, and what functions cost when only those two exist.

Exponentials are Taylor polynomials, reciprocals Newton's iteration, reciprocal square roots a bit trick with
one Newton step: no divider, no table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from twofold.devices.parts.work import Work


class Arithmetic(NamedTuple):
    """Multiplications, additions (subtractions and comparisons too), and the longest chain of dependent
    ones."""

    mul: int
    add: int
    depth: int

    def __mul__(self, times: object) -> Arithmetic:
        """Independent executions side by side: `times` as many operations, the same chain."""
        assert isinstance(times, int)
        return Arithmetic(self.mul * times, self.add * times, self.depth)

    def then(self, other: Arithmetic) -> Arithmetic:
        """This, then `other` on its results."""
        return Arithmetic(self.mul + other.mul, self.add + other.add, self.depth + other.depth)


MUL = Arithmetic(1, 0, 1)
ADD = Arithmetic(0, 1, 1)

EXP_TERMS = 6
"""Terms of the Taylor polynomial of exp: below 2^-8, one unit of bfloat16, on [-ln 2 / 2, ln 2 / 2] (checked
in the tests)."""

NEWTON_STEPS = 3
"""Newton steps of a reciprocal from the linear first guess on [0.5, 1] (error 1/17): far below one unit of
bfloat16."""

# Range reduction to 2^n · exp(r): a product for n, a product and a difference for r; then Horner.
EXP = Arithmetic(2 + EXP_TERMS - 1, 1 + EXP_TERMS - 1, 3 + 2 * (EXP_TERMS - 1))
# First guess a - b·x, then r ← r·(2 - x·r).
RECIPROCAL = Arithmetic(1 + 2 * NEWTON_STEPS, 1 + NEWTON_STEPS, 2 + 3 * NEWTON_STEPS)
# Integer guess (one subtraction), then y ← y·(1.5 - 0.5·x·y²).
RSQRT = Arithmetic(4, 2, 5)
# tanh(u) = 1 - 2 / (exp(2u) + 1).
TANH = MUL.then(EXP).then(ADD).then(RECIPROCAL).then(MUL).then(ADD)
SIGMOID = EXP.then(ADD).then(RECIPROCAL)
# 0.5·x·(1 + tanh(c·(x + d·x³))).
GELU = Arithmetic(4, 1, 4).then(TANH).then(Arithmetic(2, 1, 3))
SILU = SIGMOID.then(MUL)


def softmax(scores: int) -> Arithmetic:
    """Softmax over `scores` values: scale, maximum, difference, exponential, sum, reciprocal, product."""
    tree = max(1, scores - 1).bit_length()
    each = Arithmetic(1 + EXP.mul + 1, 1 + 1 + EXP.add + 1, 1 + 1 + EXP.depth + 1)
    return (each * scores).then(RECIPROCAL).then(Arithmetic(0, 0, 2 * tree))


def norm(width: int, *, centred: bool) -> Arithmetic:
    """LayerNorm (`centred`: mean removed, bias added) or RMSNorm over `width` values."""
    tree = max(1, width - 1).bit_length()
    each = Arithmetic(3, 4, 6) if centred else Arithmetic(3, 1, 4)
    return (each * width).then(RSQRT).then(Arithmetic(2, 1, 3 + 2 * tree))


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """`multipliers` and `adders` that each start one operation per cycle of `hertz`; `latency` cycles until
    its result; joules of an operation, 0 where the unit's power is counted as a whole."""

    multipliers: int
    adders: int
    hertz: float
    latency: int = 1
    mul_joules: float = 0.0
    add_joules: float = 0.0

    def __post_init__(self) -> None:
        if min(self.multipliers, self.adders, self.latency) < 1 or not self.hertz > 0:
            raise ValueError(
                f"vector unit: multipliers, adders, latency and hertz must be positive, not "
                f"{self.multipliers}, {self.adders}, {self.latency}, {self.hertz}"
            )

    def run(self, work: Arithmetic) -> Work:
        """`work` with its energy."""
        return Work.of("vector", self.seconds(work), self.joules(work))

    def joules(self, work: Arithmetic) -> float:
        """Energy of `work`."""
        return work.mul * self.mul_joules + work.add * self.add_joules

    def seconds(self, work: Arithmetic) -> float:
        """Time of `work`: the busier kind of unit sets the pace, and the first results take the chain's
        latency."""
        pace = max(-(-work.mul // self.multipliers), -(-work.add // self.adders))
        return (pace + work.depth * self.latency) / self.hertz
