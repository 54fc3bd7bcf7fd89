"""Closed forms of flash reads and of cores on dies against the same transfers played one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.parts.in_flash import DieCore, InFlash, tile_of
from twofold.devices.parts.nand import Nand, NandEnergy, NandShape, NandTiming, usual_energy
from twofold.devices.parts.nand_events import FlashChannel

READ = 30e-6
CORE = DieCore(16384 / 20e-6, 2e-3)
SLICE = 512


def nand(channels: int = 8, chips: int = 2, planes: int = 2, transfer: float = 1e9) -> Nand:
    shape = NandShape(channels, chips, 2, planes, 16384)
    return Nand(shape, NandTiming(READ, transfer), usual_energy(READ))


@settings(max_examples=30, deadline=None)
@given(
    pages=st.integers(1, 200),
    chips=st.integers(1, 8),
    planes=st.integers(1, 4),
    transfer=st.sampled_from([2e8, 1e9, 6e9]),
)
def test_reads_equal_their_transfers(pages: int, chips: int, planes: int, transfer: float) -> None:
    """Bound by the bus, by the planes, and between: never off by more than a page and 5 %."""
    flash = nand(1, chips, planes, transfer)
    played = FlashChannel(InFlash(flash, CORE, 16)).read(pages)
    assert flash.read_seconds(pages) == pytest.approx(played, rel=0.05, abs=flash.page_seconds)


def test_long_reads_reach_the_bandwidth() -> None:
    """Of the buses where planes are many, of the planes where they are few."""
    for flash in (nand(), nand(chips=1, planes=1, transfer=6e9)):
        rate = 64_000 * 16384 / flash.read_seconds(64_000)
        assert rate == pytest.approx(flash.read_bandwidth, rel=0.01)
    assert nand().read_bandwidth == nand().bus_bandwidth
    few = nand(chips=1, planes=1, transfer=6e9)
    assert few.read_bandwidth < few.bus_bandwidth / 5


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1000, 9000),
    columns=st.integers(1000, 9000),
    bits=st.sampled_from([4, 8, 16]),
    vectors=st.integers(1, 4),
    chips=st.sampled_from([1, 2, 4, 8]),
)
def test_products_equal_their_transfers(rows: int, columns: int, bits: int, vectors: int, chips: int) -> None:
    """A shared product is within 3 % and a page of the channel on which its rounds, slices and results are
    played; vectors wait for a slice at times, which the closed form leaves out."""
    flash = InFlash(nand(chips=chips), CORE, 16)
    split = flash.split(rows, columns, bits, vectors, 1)
    outside = -(-split.outside // flash.nand.shape.channels)
    played = FlashChannel(flash).multiply(split.rounds, outside, bits, vectors, 1, SLICE)
    assert split.seconds == pytest.approx(played, rel=0.03, abs=flash.nand.page_seconds)


def test_tile_sends_least() -> None:
    """The tile of the source's smallest machine; no other shape of a page sends fewer inputs and results."""
    flash = nand()
    tile = tile_of(flash, 8)
    assert (tile.rows * flash.shape.channel_dies, tile.columns * flash.shape.channels) == (256, 2048)
    sent = [16384 // (1 << n) * flash.shape.channel_dies + (1 << n) for n in range(15)]
    assert tile.rows * flash.shape.channel_dies + tile.columns == min(sent)


@pytest.mark.parametrize("shape", [(4096, 4096), (16384, 4096), (28672, 8192)])
def test_sharing_helps_and_is_the_best_split(shape: tuple[int, int]) -> None:
    """Both sides together are faster than either alone, and no other number of rounds is faster."""
    flash = InFlash(nand(), CORE, 16)
    split = flash.split(*shape, 8, 1, 1)
    alone = replace(flash, shared=False).split(*shape, 8, 1, 1)
    pages = split.inside + split.outside
    assert alone.outside == 0
    assert split.seconds < 0.8 * alone.seconds
    assert split.seconds < 0.5 * flash.nand.read_seconds(pages)
    channel = [
        FlashChannel(flash).multiply(rounds, -(-max(0, pages - 32 * rounds) // 8), 8, 1, 1, SLICE)
        for rounds in range(0, -(-pages // 32) + 1, 5)
    ]
    assert split.seconds <= min(channel) * 1.02


def test_whole_pages_hold_up_vectors() -> None:
    """Read slicing: the same product takes longer where pages go out whole."""
    flash = InFlash(nand(), CORE, 16)
    split = flash.split(16384, 4096, 8, 1, 1)
    whole, sliced = (
        FlashChannel(flash).multiply(split.rounds, split.outside // 8, 8, 1, 1, size) for size in (16384, 512)
    )
    assert whole > 1.03 * sliced


def test_many_vectors_go_outside() -> None:
    """Cores of a few multipliers take their time for each vector; a prompt's products leave them out."""
    flash = InFlash(nand(), CORE, 16)
    one, few, many = (flash.split(4096, 4096, 8, vectors, 1, 1e-6 * vectors) for vectors in (1, 8, 17))
    assert one.inside > one.outside
    assert 0 < few.inside < one.inside
    assert many.inside == 0


def test_energy_is_counted_by_page_and_byte() -> None:
    """Sensing and sending are separate."""
    flash = nand()
    assert flash.read_joules(10, 0) == pytest.approx(10 * 3.3 * 25e-3 * READ)
    assert flash.read_joules(0, 1e6) == pytest.approx(1e6 * 3.3 * 10e-3 / 400e6)


def test_figures_are_checked() -> None:
    """What cannot be is refused by its name."""
    with pytest.raises(ValueError, match="channels"):
        NandShape(0, 1, 1, 1, 4096)
    with pytest.raises(ValueError, match="positive"):
        NandTiming(0.0, 1e9)
    with pytest.raises(ValueError, match="bus"):
        NandEnergy(1e-6, -1.0, 0.0)
    with pytest.raises(ValueError, match="bytes_per_second"):
        DieCore(0.0, 1e-3)
