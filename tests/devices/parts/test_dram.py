"""Closed forms of DRAM work against the same commands played one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.machines.pim_gpt import PimGpt
from twofold.devices.parts.bank_mac import MacStream, matrix_streams, run, stream_seconds
from twofold.devices.parts.dram import Dram, DramShape, DramWork
from twofold.devices.parts.dram_events import ChannelSimulator
from twofold.devices.parts.hbm import hbm

DRAM = PimGpt().dram


def without_refresh(dram: Dram) -> Dram:
    return replace(dram, timing=replace(dram.timing, refi=0.9, rfc=1e-12))


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 60),
    columns=st.integers(1, 80),
    fill=st.integers(0, 64),
    reuse=st.integers(1, 4),
    packed=st.booleans(),
)
def test_stream_equals_its_commands(outputs: int, columns: int, fill: int, reuse: int, packed: bool) -> None:
    """Over shapes, tails and both layouts the closed form is within 3 % (and 10 ns) of the played
    commands."""
    quiet = without_refresh(DRAM)
    stream = MacStream(outputs, columns, fill, reuse, packed)
    simulator = ChannelSimulator(quiet)
    played = simulator.run(stream)
    assert stream_seconds(quiet, stream) == pytest.approx(played, rel=0.03, abs=10e-9)
    assert simulator.counts["MAC"] == stream.macs
    assert simulator.counts["RDMAC"] == stream.reads
    assert simulator.counts["ACT"] == stream.rows(quiet.shape.columns) * quiet.shape.banks


def test_full_rows_are_exact() -> None:
    """Outputs that fill whole rows: no tails, so the closed form is the command stream."""
    quiet = without_refresh(DRAM)
    stream = MacStream(outputs=20, columns=64, fill=64)
    assert stream_seconds(quiet, stream) == pytest.approx(ChannelSimulator(quiet).run(stream), rel=1e-9)


def test_refresh_share() -> None:
    """Over many intervals the refreshes take the share that the closed form adds."""
    stream = MacStream(outputs=2000, columns=64, fill=64)
    simulator = ChannelSimulator(DRAM)
    played = simulator.run(stream)
    assert stream_seconds(DRAM, stream) == pytest.approx(played, rel=0.01)
    assert simulator.counts["REF"] > 50
    assert played > 1.05 * ChannelSimulator(without_refresh(DRAM)).run(stream)


@pytest.mark.parametrize(
    ("outputs", "inputs"), [(2304, 768), (768, 3072), (6400, 1600), (50257, 768), (5, 40)]
)
def test_matrix_equals_its_commands(outputs: int, inputs: int) -> None:
    """Products of the GPT models' shapes: within 3 % of the played commands, refresh included."""
    streams = matrix_streams(DRAM, outputs, inputs, 2, 2048)
    simulator = ChannelSimulator(DRAM)
    for stream in streams:
        simulator.run(stream)
    # A short stream holds one refresh more or less than its even share.
    tolerance = 0.03 * simulator.now + DRAM.timing.rfc
    assert run(DRAM, streams).seconds == pytest.approx(simulator.now, abs=tolerance)


@pytest.mark.parametrize("per_bank", [1, 2, 6, 13])
@pytest.mark.parametrize("rrd", [1e-9, 5.5e-9])
def test_scatter_equals_its_commands(per_bank: int, rrd: float) -> None:
    """Scattered writes, limited by the rows of a bank or by the channel's rate of activates."""
    quiet = without_refresh(DRAM)
    dram = replace(quiet, timing=replace(quiet.timing, rrd=rrd, faw=4 * rrd))
    simulator = ChannelSimulator(dram)
    played = simulator.scatter(per_bank)
    assert dram.scatter(per_bank).seconds == pytest.approx(played, rel=0.03)
    assert simulator.counts["WR"] == per_bank * dram.shape.banks
    assert dram.scatter(per_bank).writes == per_bank * dram.shape.all_banks


@settings(max_examples=60, deadline=None)
@given(outputs=st.integers(1, 20_000), inputs=st.integers(1, 9_000))
def test_never_faster_than_the_banks(outputs: int, inputs: int) -> None:
    """No product beats the bandwidth of all banks, and every stored byte is read by a command."""
    work = run(DRAM, matrix_streams(DRAM, outputs, inputs, 2, 2048))
    nbytes = 2 * outputs * inputs
    assert work.seconds >= nbytes / DRAM.bank_bandwidth
    assert work.macs * DRAM.shape.banks * DRAM.shape.column_bytes >= nbytes
    assert work.activates * DRAM.shape.row_bytes >= nbytes
    assert DRAM.joules(work) > work.macs * DRAM.energy.mac + work.activates * DRAM.energy.activate


@pytest.mark.parametrize("generation", ["hbm2", "hbm2e", "hbm3"])
@pytest.mark.parametrize("columns", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("slow", [False, True])
def test_streams_over_the_pins_equal_their_commands(generation: str, columns: int, slow: bool) -> None:
    """Reads and writes of whole rows in all banks in turn, bound by the pins or, with slow activates, by
    those: within 3 % of the played commands."""
    dram = without_refresh(hbm(generation))  # type: ignore[arg-type]
    if slow:
        dram = replace(dram, timing=replace(dram.timing, faw=400e-9))
    nbytes = columns * dram.shape.column_bytes * dram.shape.channels
    for work, write in ((dram.stream(nbytes), False), (dram.store(nbytes), True)):
        played = ChannelSimulator(dram).stream(columns, write=write)
        rows = -(-columns // dram.shape.columns)
        tolerance = 0.03 * played + (slow and 4 / rows * played)  # four rows open before the window counts
        assert work.seconds == pytest.approx(played, abs=tolerance)


def test_streams_lose_time_to_refresh() -> None:
    """Over many intervals a stream takes the share longer that the refreshes take, and never beats the
    pins."""
    dram = hbm("hbm3")
    simulator = ChannelSimulator(dram)
    played = simulator.stream(20_000)
    nbytes = 20_000 * dram.shape.column_bytes * dram.shape.channels
    assert dram.stream(nbytes).seconds == pytest.approx(played, rel=0.02)
    assert simulator.counts["REF"] > 5
    assert dram.stream(nbytes).seconds > nbytes / dram.bus_bandwidth


def test_memories_by_generation() -> None:
    """Capacity and bandwidth are the standard's, or what is asked for; energy is near the published total."""
    assert (hbm("hbm2").shape.nbytes, hbm("hbm3").shape.nbytes) == (8 << 30, 16 << 30)
    assert hbm("hbm3", 5).bus_bandwidth == pytest.approx(5 * 819.2e9)
    a100 = hbm("hbm2", 5, capacity=40 << 30, bandwidth=1555e9)
    assert (a100.shape.nbytes, a100.bus_bandwidth) == (40 << 30, pytest.approx(1555e9))
    per_bit = hbm("hbm2").stream(1e9).total_joules / 8e9
    assert 3.48e-12 < per_bit < 3.92e-12  # without and with activations of poor locality and ECC
    assert hbm("hbm2").stream(0).seconds == 0.0
    with pytest.raises(ValueError, match="did you mean"):
        hbm("hbm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hold at least"):
        hbm("hbm2", capacity=1000)


def test_multiplies_may_be_slower_than_columns() -> None:
    """In-bank multiplies in all bank groups at once follow each other at a pace of their own."""
    dram = without_refresh(hbm("hbm2"))
    stream = MacStream(outputs=30, columns=20, fill=10, reuse=2)
    assert stream_seconds(dram, stream) == pytest.approx(ChannelSimulator(dram).run(stream), rel=0.03)


def test_row_access() -> None:
    """A read of a row takes its latency and its columns; a write closes the bank."""
    t = DRAM.timing
    assert DRAM.read_row(64).seconds == pytest.approx((t.rcd_read + t.cl + 2 * t.ccd) * t.refresh_factor)
    assert DRAM.read_row(4096).activates == 2
    assert DRAM.write_row(2048).seconds > DRAM.write_row(64).seconds
    assert DRAM.write_row(2048).writes == 64
    assert DRAM.scatter(0) == DramWork()


def test_bad_figures_are_refused() -> None:
    """What a user can get wrong in a machine's figures."""
    with pytest.raises(ValueError, match="channels must be a positive integer, not 0"):
        DramShape(0, 16, 16384, 2048, 32)
    with pytest.raises(ValueError, match="multiple of column_bytes"):
        DramShape(8, 16, 16384, 2000, 32)
    with pytest.raises(ValueError, match="rp must be a positive number of seconds"):
        replace(DRAM.timing, rp=float("nan"))
    with pytest.raises(ValueError, match="shorter than its interval"):
        replace(DRAM.timing, rfc=2e-6)
    with pytest.raises(ValueError, match="bus must not be negative"):
        replace(DRAM.energy, bus=-1.0)
    with pytest.raises(ValueError, match="open rows"):
        replace(DRAM.energy, active=0.0)
