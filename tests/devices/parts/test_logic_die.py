"""Bundles of banks against their commands, and what units beside them take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.machines.duplex import Duplex
from twofold.devices.parts.dram_events import ChannelSimulator
from twofold.devices.parts.logic_die import LogicDie

FIGURES = Duplex().figures
LOGIC, PINS = FIGURES.logic, FIGURES.pins


@pytest.mark.parametrize("bundle", [8, 16, 32])
@pytest.mark.parametrize("columns", [1, 40, 2000])
def test_bundles_equal_their_commands(bundle: int, columns: int) -> None:
    """Read one after the other, or one alone that must close before it opens again."""
    logic = replace(LOGIC, bundle=bundle)
    view = logic.view(replace(PINS, timing=replace(PINS.timing, refi=0.9, rfc=1e-12)))
    nbytes = columns * view.shape.column_bytes * view.shape.channels
    played = ChannelSimulator(view).stream(columns)
    closing = view.read_cycle  # of the last row, which the closed form waits for as for any other
    assert view.stream(nbytes).seconds == pytest.approx(played, rel=0.03, abs=closing)


def test_the_memory_is_the_same() -> None:
    """Bundles hold what their banks do, at more bandwidth and without the energy of the pins."""
    view = LOGIC.view(PINS)
    assert view.shape.nbytes == PINS.shape.nbytes
    one, other = view.stream(1e9), PINS.stream(1e9)
    assert one.seconds < other.seconds / 3
    assert one.total_joules < 0.7 * other.total_joules


def test_the_slower_of_reading_and_multiplying_counts() -> None:
    """Few operations per byte wait for the memory, many for the units; energy is the sum of both."""
    view = LOGIC.view(PINS)
    low, high = (LOGIC.multiply(view, 1e8, macs, 1e8) for macs in (1e8, 1e11))
    assert (low.bound, high.bound) == ("dram", "logic-die")
    assert high.seconds == pytest.approx(1e11 / LOGIC.macs_per_second)
    assert high.joules["logic-die"] == pytest.approx(1e11 * LOGIC.mac_joules + 1e8 * LOGIC.buffer_joules)
    assert isinstance(LOGIC, LogicDie)
