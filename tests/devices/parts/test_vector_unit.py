"""The functions that the vector unit's counts stand for are accurate enough with so many operations."""

from __future__ import annotations

import math

import pytest

from twofold.devices.parts.vector_unit import (
    ADD,
    EXP,
    EXP_TERMS,
    MUL,
    NEWTON_STEPS,
    RECIPROCAL,
    Arithmetic,
    VectorUnit,
    norm,
    softmax,
)

BF16_UNIT = 2.0**-8


class Counter:
    """Arithmetic on floats that counts itself."""

    def __init__(self) -> None:
        self.mul = self.add = 0

    def times(self, a: float, b: float) -> float:
        self.mul += 1
        return a * b

    def plus(self, a: float, b: float) -> float:
        self.add += 1
        return a + b


def exp(x: float, c: Counter) -> float:
    n = round(c.times(x, 1 / math.log(2)))
    r = c.plus(x, -c.times(n, math.log(2)))
    y = 1 / math.factorial(EXP_TERMS - 1)
    for k in range(EXP_TERMS - 2, -1, -1):
        y = c.plus(c.times(y, r), 1 / math.factorial(k))
    return math.ldexp(y, n)


def reciprocal(x: float, c: Counter) -> float:
    mantissa, exponent = math.frexp(x)
    y = c.plus(48 / 17, -c.times(32 / 17, mantissa))
    for _ in range(NEWTON_STEPS):
        y = c.times(y, c.plus(2.0, -c.times(mantissa, y)))
    return math.ldexp(y, -exponent)


@pytest.mark.parametrize("x", [-20.0, -3.3, -0.34, 0.0, 0.2, 5.5])
def test_exp(x: float) -> None:
    """Accurate to bfloat16 with exactly the operations counted."""
    counter = Counter()
    assert exp(x, counter) == pytest.approx(math.exp(x), rel=BF16_UNIT / 4)
    assert (counter.mul, counter.add) == (EXP.mul, EXP.add)


@pytest.mark.parametrize("x", [1e-3, 0.5, 0.77, 1.0, 513.0])
def test_reciprocal(x: float) -> None:
    """Accurate to bfloat16 with exactly the operations counted."""
    counter = Counter()
    assert reciprocal(x, counter) == pytest.approx(1 / x, rel=BF16_UNIT / 4)
    assert (counter.mul, counter.add) == (RECIPROCAL.mul, RECIPROCAL.add)


def test_counts() -> None:
    """Work grows with width; chains do not grow with independent elements."""
    assert MUL.then(ADD) == Arithmetic(1, 1, 2)
    assert Arithmetic(5, 0, 1) == MUL * 5
    assert softmax(100).mul > 100 * EXP.mul
    assert norm(64, centred=True).add > norm(64, centred=False).add


def test_seconds() -> None:
    """The busier units set the pace; the chain adds its latency; nothing beats the units' rate."""
    unit = VectorUnit(multipliers=4, adders=8, hertz=1e9, latency=2)
    assert unit.seconds(Arithmetic(40, 8, 3)) == pytest.approx(16e-9)
    assert unit.seconds(Arithmetic(4, 80, 3)) == pytest.approx(16e-9)
    with pytest.raises(ValueError, match="must be positive"):
        VectorUnit(0, 1, 1e9)
