"""Published energies and areas, and how they are carried to other process nodes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.devices.parts.energy import NODES, SRAM_PJ, VOLTS, Number, Process
from twofold.devices.parts.sram import Sram

AT_45 = Process(45)
NUMBERS: tuple[Number, ...] = ("int4", "int8", "int16", "int32", "fp16", "fp32")


@pytest.mark.parametrize(
    ("number", "add", "mul"),
    [("int8", 0.03, 0.2), ("int32", 0.1, 3.1), ("fp16", 0.4, 1.1), ("fp32", 0.9, 3.7)],
)
def test_published_operations(number: Number, add: float, mul: float) -> None:
    """Horowitz's table at 45 nm, in picojoules."""
    assert AT_45.energy_scale == AT_45.area_scale == 1.0
    assert AT_45.add(number) == pytest.approx(add * 1e-12)
    assert AT_45.mul(number) == pytest.approx(mul * 1e-12)
    assert AT_45.mac(number, "fp32") == pytest.approx((mul + 0.9) * 1e-12)


@pytest.mark.parametrize(("nbytes", "picojoules"), [(8 << 10, 10.0), (32 << 10, 20.0), (1 << 20, 100.0)])
def test_published_memories(nbytes: int, picojoules: float) -> None:
    """Horowitz's reads of 64 bits."""
    assert AT_45.sram_byte(nbytes) == pytest.approx(picojoules * 1e-12 / 8)


@given(smaller=st.integers(1, 1 << 26), more=st.integers(0, 1 << 26))
def test_larger_memories_take_more(smaller: int, more: int) -> None:
    """Between and beyond the published sizes; never below half of the smallest."""
    least = min(SRAM_PJ.values()) / 2 * 1e-12 / 8
    assert least <= AT_45.sram_byte(smaller) <= AT_45.sram_byte(smaller + more)


@given(st.lists(st.floats(NODES[-1], NODES[0]), min_size=2, max_size=2))
def test_smaller_nodes_take_less(nodes: list[float]) -> None:
    """Energy and area fall from node to node and between them, for every operation and memory."""
    small, large = Process(min(nodes)), Process(max(nodes))
    assert 0 < small.energy_scale <= large.energy_scale
    assert 0 < small.area_scale <= large.area_scale
    for number in NUMBERS:
        assert small.mul(number) <= large.mul(number)
        assert small.multiplier_area(number) <= large.multiplier_area(number)
        assert small.adder_area(number) <= large.adder_area(number)
    assert small.sram_byte(4096) <= large.sram_byte(4096)


def test_published_scaling() -> None:
    """Stillmaker and Baas: energy at 7 nm is about a tenth of that at 45 nm; supplies fall with the node."""
    assert Process(7).energy_scale == pytest.approx(
        (0.1776 * 0.49 - 0.09097 * 0.7 + 0.02447) / (1.103 * 0.81 - 0.362 * 0.9 + 0.2767)
    )
    assert list(VOLTS) == sorted(VOLTS, reverse=True)
    assert min(VOLTS) >= 0.7
    assert max(VOLTS) <= 1.2
    assert Process(28).energy_scale == pytest.approx(
        Process(20).energy_scale + (Process(32).energy_scale - Process(20).energy_scale) * 8 / 12
    )


def test_wider_numbers_take_more() -> None:
    """Within integers and within floats, in energy and area."""
    kinds: tuple[tuple[Number, ...], ...] = (("int4", "int8", "int16", "int32"), ("fp16", "fp32"))
    for kind in kinds:
        for narrow, wide in itertools.pairwise(kind):
            assert AT_45.add(narrow) < AT_45.add(wide)
            assert AT_45.mul(narrow) < AT_45.mul(wide)
            assert AT_45.multiplier_area(narrow) < AT_45.multiplier_area(wide)
            assert AT_45.adder_area(narrow) < AT_45.adder_area(wide)


@pytest.mark.parametrize("node", [5, 180])
def test_unknown_nodes_are_refused(node: int) -> None:
    """Nothing is extrapolated."""
    with pytest.raises(ValueError, match="known from 7 to 130 nm"):
        Process(node)


def test_on_chip_memory() -> None:
    """What moves takes bandwidth and energy."""
    work = Sram(1 << 20, 1e12, 2e-12).move(1e6)
    assert work.seconds == pytest.approx(1e-6)
    assert work.total_joules == pytest.approx(2e-6)
    assert work.bound == "sram"
    with pytest.raises(ValueError, match="capacity and bandwidth must be positive"):
        Sram(0, 1e12, 0.0)
    with pytest.raises(ValueError, match="joules not negative"):
        Sram(1, 1e12, -1.0)
