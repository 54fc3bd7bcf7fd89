"""HAD's blocks beside those of standard attention: what is saved, and what its ops take."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.machines.fp16_array import Fp16Array
from twofold.devices.machines.had import Had, HadFigures
from twofold.devices.machines.standard_attention import AttentionFigures, StandardAttention
from twofold.ops import Attention
from twofold.ops.attention import Span, total_spans
from twofold.ops.signs import HammingAttention, SignWrite

KEYS, HEADS, DIM = 1024, 12, 64


def attention(keys: int = KEYS, dim: int = DIM) -> Attention:
    return Attention(total_spans([Span(1, keys)]), HEADS, HEADS, dim, dim, 4 * HEADS * dim * keys, "bf16", 2)


def signs(kept: int = 120, keys: int = KEYS, map_flop: int = 0) -> HammingAttention:
    read = HEADS * (keys * DIM // 8 + kept * DIM * 2)
    t = total_spans([Span(1, keys)])
    return HammingAttention(
        t, HEADS, HEADS, DIM, DIM, read, "bf16", 2, format="had", seen=keys, kept=kept, map_flop=map_flop
    )


def test_signs_save_area_and_power_in_a_block() -> None:
    """Everything but the memory of the values shrinks by far; a block's area and power are its units'."""
    had, standard = Had(), StandardAttention()
    values = had.logic.sram_area(2 * had.figures.context * DIM)
    assert values < had.block_mm2 < values + 0.1 * standard.block_mm2
    assert had.block_watts < 0.1 * standard.block_watts
    for machine in (had, standard):
        blocks = machine.area_mm2 - Fp16Array(machine.figures).area_mm2
        assert blocks == pytest.approx(machine.figures.blocks * machine.block_mm2)


def test_keeping_all_entries_saves_less() -> None:
    """The value unit is then as large as the standard one's, and every value is read."""
    some, every = Had(), Had(replace(Had().figures, kept=256))
    assert some.value_lanes == 8
    assert every.value_lanes == DIM
    assert every.block_mm2 > some.block_mm2
    assert every.entry_joules > 4 * some.entry_joules


def test_a_block_takes_an_entry_in_a_cycle() -> None:
    """As many entries as blocks; wider heads in pieces."""
    machine = StandardAttention(replace(StandardAttention().figures, blocks=3))
    once = machine.attention(attention(1 << 16)).seconds
    assert once == pytest.approx(
        max((1 << 16) * HEADS / 3 / machine.figures.hertz, 4 * HEADS * DIM * (1 << 16) / 64e9)
    )
    fast = replace(machine.figures, dram=replace(machine.figures.dram, bandwidth=1e15))
    narrow, wide = (StandardAttention(fast).attention(attention(dim=dim)).seconds for dim in (64, 128))
    assert wide == pytest.approx(2 * narrow)


def test_chosen_values_keep_pace_with_keys() -> None:
    """At the share that the block is made for, time is that of comparing; with more kept that of values."""
    machine = Had(replace(Had().figures, blocks=1, dram=replace(Had().figures.dram, bandwidth=1e15)))
    usual, more = machine.attention(signs(120)).seconds, machine.attention(signs(480)).seconds
    assert usual == pytest.approx(KEYS * HEADS / machine.figures.hertz, rel=0.01)
    assert more == pytest.approx(480 * HEADS * DIM / 8 / machine.figures.hertz, rel=0.01)


def test_reading_signs_spends_less() -> None:
    """Time and energy of attention over signs lie far below those of numbers on its counterpart."""
    had, standard = Had().attention(signs()), StandardAttention().attention(attention())
    assert had.seconds < standard.seconds / 4
    assert had.total_joules < standard.total_joules / 5


def test_numbers_run_on_its_array() -> None:
    """Attention over keys that are numbers takes what the array of floats takes."""
    had = Had()
    plain = Fp16Array(had.figures).attention(attention())
    assert had.attention(attention()).seconds == plain.seconds


def test_signs_need_its_blocks() -> None:
    """Standard attention has nothing that compares bits."""
    op = signs()
    with pytest.raises(ValueError, match="cannot execute HammingAttention"):
        StandardAttention().charge(op, op.cost())
    write = SignWrite(1, 2 * HEADS * DIM, HEADS * (8 + 128), 2, 1536, format="had")
    with pytest.raises(ValueError, match="cannot execute SignWrite"):
        StandardAttention().charge(write, write.cost())
    assert Had().cache_write(write).seconds > 0


def test_turning_vectors_takes_the_lanes() -> None:
    """Matrices before the signs are counted."""
    assert Had().attention(signs(map_flop=10**6)).seconds > Had().attention(signs()).seconds


def test_figures_are_checked() -> None:
    """More cannot be kept than there is."""
    with pytest.raises(ValueError, match="1 to context"):
        HadFigures(45, 32, 28, 28, kept=300)
    with pytest.raises(ValueError, match="must be positive"):
        AttentionFigures(45, 32, 28, 28, dim=0)
