"""OliVe and the GOBO-like array of equal area: elements, decoders, outliers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.machines.gobo import Gobo, GoboFigures
from twofold.devices.machines.int8_array import Int8Array
from twofold.devices.machines.olive import Olive
from twofold.ops import Linear
from twofold.techniques.weights.int_vs_fp import IntVsFp
from twofold.techniques.weights.olive import Olive as Pairs

SIZE = 4096


def product(technique: object, tokens: int, compute: str = "bf16") -> Linear:
    op: Linear = technique.weight_scheme().pack(None, SIZE, SIZE).op(tokens, compute)  # type: ignore[attr-defined]
    return op


def test_arrays_have_equal_area() -> None:
    """Within a column of the GOBO-like one."""
    olive, gobo = Olive(), Gobo()
    column = gobo.array_mm2 / gobo.figures.columns
    assert 0 <= olive.array_mm2 - gobo.array_mm2 < column


def test_four_elements_make_one_of_eight_bits() -> None:
    """8-bit pairs take four times as long as 4-bit ones where the array decides."""
    four, eight = (Olive().linear(product(Pairs(wbit=bits, abit=bits), 512)) for bits in (4, 8))
    assert eight.seconds / four.seconds == pytest.approx(4, rel=0.05)
    assert eight.joules["array"] / four.joules["array"] == pytest.approx(4, rel=0.05)


def test_decoders_are_a_small_part() -> None:
    """At the edges only: a few per cent of area and energy, but not nothing."""
    machine = Olive()
    f = machine.figures
    decoders = machine.decoder.area * (f.rows + f.columns)
    assert 0 < decoders < 0.02 * machine.array_mm2
    op = product(Pairs(), 64)
    elements = op.tokens * SIZE * SIZE * machine.element.joules
    assert elements < machine.linear(op).joules["array"] < 1.05 * elements


def test_pairs_need_decoders() -> None:
    """A plain array of integers refuses them, OliVe's takes plain integers too."""
    with pytest.raises(ValueError, match="no decoders"):
        Int8Array().linear(product(Pairs(), 1))
    assert Olive().linear(product(IntVsFp("mxint4", activations="mxint4"), 64)).seconds > 0


def test_outliers_of_gobo_are_stored_beside() -> None:
    """A thousandth of the weights, in 32 bits with their places; no other format has any."""
    op = product(IntVsFp("int3-g128"), 1)
    extra = Gobo().stored_bytes(op) - op.weight_bytes
    assert extra == pytest.approx(0.001 * SIZE * SIZE * 8)
    wide = product(IntVsFp("int4-g128"), 1)
    assert Gobo().stored_bytes(wide) == wide.weight_bytes
    more = Gobo(replace(Gobo().figures, outliers=0.1)).linear(op)
    assert more.joules["dram"] > 2 * Gobo().linear(op).joules["dram"]
    with pytest.raises(ValueError, match="must be a share"):
        GoboFigures(22, 32, 26, 26, outliers=2)


def test_dictionaries_widen_three_bits_for_nothing() -> None:
    """Four bits are widened by the lanes, three are looked up at the array's edge."""
    three, four = (product(IntVsFp(f"int{bits}-g128"), 1) for bits in (3, 4))
    assert Gobo().around(three) == 0
    assert Gobo().around(four) == four.vector_flop > 0
