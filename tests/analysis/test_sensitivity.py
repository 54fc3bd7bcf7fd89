"""Sensitivities: numbers of a machine moved one by one, against results that are known."""

from __future__ import annotations

import pytest

from twofold.analysis.sensitivity import STEP, Moved, sensitivity
from twofold.devices.machine import Machine, numbers
from twofold.devices.machines.int8_array import Int8Array


def test_each_number_is_moved_alone_and_the_largest_swing_is_first() -> None:
    """Of bandwidth · hertz² the clock moves most, then the bandwidth, and nothing else at all."""

    def result(machine: Machine) -> float:
        assert isinstance(machine, Int8Array)
        return machine.figures.dram.bandwidth * machine.figures.hertz**2

    middle, moved = sensitivity(Int8Array, result)
    usual = Int8Array().figures
    assert middle == usual.dram.bandwidth * usual.hertz**2
    first, second, *others = moved
    assert (first.path, second.path) == ("hertz", "dram.bandwidth")
    assert first.value == usual.hertz
    assert first.lower == pytest.approx(middle * (1 - STEP) ** 2)
    assert first.higher == pytest.approx(middle * (1 + STEP) ** 2)
    assert second.lower == pytest.approx(middle * (1 - STEP))
    assert all(each.swing(middle) == 0 for each in others)
    assert {each.path for each in moved} == set(numbers(usual))


def test_whole_numbers_move_by_one_at_least() -> None:
    """Two rows, a fifth of which is less than one."""

    class Small(Int8Array):
        def __init__(self, figures: object = None, *, tp: int = 1) -> None:
            from dataclasses import replace

            super().__init__(figures or replace(Int8Array().figures, lanes=3), tp=tp)  # type: ignore[arg-type]

    _, moved = sensitivity(Small, lambda machine: float(machine.figures.lanes))
    lanes = next(each for each in moved if each.path == "lanes")
    assert (lanes.lower, lanes.higher) == (2, 4)


def test_what_cannot_be_built_is_left_open() -> None:
    """A result that refuses some figures has none there, and swings by the other side alone."""

    def result(machine: Machine) -> float:
        if machine.figures.hertz > Int8Array().figures.hertz:
            raise ValueError("too fast")
        return float(machine.figures.hertz)

    middle, moved = sensitivity(Int8Array, result)
    clock = next(each for each in moved if each.path == "hertz")
    assert clock.higher is None
    assert clock.swing(middle) == pytest.approx(STEP)
    assert Moved("nothing", 1.0, None, None).swing(1.0) == 0.0
