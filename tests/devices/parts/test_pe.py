"""Circuits from gates: the published units come out, and everything grows as it should."""

from __future__ import annotations

import pytest

from twofold.devices.parts.energy import Process
from twofold.devices.parts.pe import Logic


def test_published_units_come_out() -> None:
    """At 45 nm the 8-bit adder and multiplier are the published ones, 32 bits of addition nearly so."""
    logic = Logic(Process(45))
    assert logic.adder(8).area == pytest.approx(36e-6)
    assert logic.adder(8).joules == pytest.approx(0.03e-12)
    assert logic.multiplier(8, 8).area == pytest.approx(282e-6)
    assert logic.multiplier(8, 8).joules == pytest.approx(0.2e-12)
    assert logic.adder(32).area == pytest.approx(137e-6, rel=0.06)
    assert logic.float_multiplier("fp16").area == pytest.approx(1640e-6)


def test_circuits_add_up() -> None:
    """Side by side, areas and energies are sums."""
    logic = Logic(Process(28))
    both = logic.adder(8) + logic.register(8) * 2
    assert both.area == pytest.approx(logic.adder(8).area + 2 * logic.register(8).area)
    assert both.joules == pytest.approx(logic.adder(8).joules + 2 * logic.register(8).joules)


@pytest.mark.parametrize("name", ["adder", "register", "xor", "popcount", "gates"])
def test_more_bits_take_more(name: str) -> None:
    """Twice the bits: twice the area and energy."""
    make = getattr(Logic(Process(45)), name)
    assert make(32).area == pytest.approx(2 * make(16).area)
    assert make(32).joules == pytest.approx(2 * make(16).joules)


def test_shifters_grow_with_their_positions_by_stages() -> None:
    """A barrel shifter has a row of multiplexers for each bit of the distance."""
    logic = Logic(Process(45))
    assert logic.shifter(16, 16).area == pytest.approx(2 * logic.shifter(16, 4).area)
    assert logic.shifter(16, 9).area == logic.shifter(16, 16).area


def test_smaller_nodes_are_smaller() -> None:
    """Area and energy shrink with the node, memories too; a bit at 28 nm is what CACTI says."""
    new, old = Logic(Process(22)), Logic(Process(45))
    assert new.adder(16).area < old.adder(16).area
    assert new.adder(16).joules < old.adder(16).joules
    assert new.sram_area(4096) < old.sram_area(4096)
    grown = Logic(Process(28)).sram_area(8192) - Logic(Process(28)).sram_area(4096)
    assert grown == pytest.approx(0.05558371808 - 0.04606650594, rel=1e-6)
