"""FuseMax and the machines it is compared with: what their mappings of attention change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.claims.setups.fusemax import MODELS, attention
from twofold.devices.machines.flat import Flat
from twofold.devices.machines.fusemax import FuseMax
from twofold.devices.machines.unfused_array import UnfusedArray
from twofold.devices.spatial_array import SpatialArray
from twofold.ops import Attention, Linear, Op
from twofold.ops.attention import Span, total_spans

BERT = MODELS["BERT-Base"]
MACHINES = (FuseMax(), Flat(), UnfusedArray())


def seconds(machine: SpatialArray, op: Op) -> float:
    return machine.charge(op, op.cost()).seconds


def dram_joules(machine: SpatialArray, op: Op) -> float:
    return dict(machine.charge(op, op.cost()).parts)["dram"]


def decode(keys: int, group: int = 1, seqs: int = 1) -> Attention:
    kv = 8
    totals = total_spans([Span(1, keys)] * seqs)
    return Attention(totals, kv * group, kv, 128, 128, 4 * kv * 128 * keys * seqs, "bf16", 2)


@pytest.mark.parametrize(
    ("machine", "tokens", "published"),
    [
        (FuseMax(), 1 << 10, 0.0020131),
        (FuseMax(), 1 << 16, 7.4025),
        (Flat(), 1 << 10, 0.0133861),
        (Flat(), 1 << 16, 54.829),
        (UnfusedArray(), 1 << 14, 5.36184),
    ],
)
def test_time_is_that_of_the_artefact(machine: SpatialArray, tokens: int, published: float) -> None:
    """BERT at batch 64, in seconds (attn-{binding,flat,unfused}.csv of the artefact, from Timeloop)."""
    assert seconds(machine, attention(BERT, tokens)) == pytest.approx(published, rel=0.01)


def test_both_arrays_are_busy() -> None:
    """FuseMax's 2D array multiplies almost always on long sequences; FLAT's waits for the 1D array."""
    op = attention(BERT, 1 << 16)
    peak = FuseMax().peaks().flop_per_second["bf16"]
    macs = {m.name: op.cost().flop / peak / seconds(m, op) for m in MACHINES}
    assert macs["fusemax"] > 0.9
    assert macs["flat"] == pytest.approx(0.125, rel=0.01)
    assert macs["unfused-array"] < macs["flat"]


def test_one_pass_needs_no_room() -> None:
    """FuseMax's traffic is that of keys, values, queries and results at any length; FLAT's scores leave the
    buffer where their rows are too long."""
    short, long = attention(BERT, 1 << 14), attention(BERT, 1 << 18)
    for op, factor in ((short, 1.1), (long, 9)):
        stored = op.cost().bytes_moved * FuseMax().figures.joules.dram_byte
        assert dram_joules(FuseMax(), op) < factor * stored
    assert dram_joules(Flat(), long) > 100 * dram_joules(FuseMax(), long)
    half = FuseMax(replace(FuseMax().figures, buffer_bytes=8 << 20))
    assert seconds(half, long) == pytest.approx(seconds(FuseMax(), long), rel=1e-3)
    flat = Flat(replace(Flat().figures, buffer_bytes=1 << 20))
    middle = attention(BERT, 1 << 15)
    assert dram_joules(flat, middle) > 3 * dram_joules(Flat(), middle)


def test_decode_shares_tiles_among_heads_of_a_group() -> None:
    """Queries that share keys fill columns that a lone query leaves idle."""
    for machine in MACHINES:
        one, eight = decode(8192), decode(8192, group=8)
        assert seconds(machine, eight) < 1.5 * seconds(machine, one)
        assert seconds(machine, decode(8192, seqs=4)) == pytest.approx(4 * seconds(machine, one), rel=0.05)


def test_more_lanes_lift_flat() -> None:
    """FLAT is bound by its softmax; FuseMax's lanes keep up with its array."""
    op = attention(BERT, 1 << 14)
    gains = {}
    for machine in (FuseMax(), Flat()):
        wider = type(machine)(replace(machine.figures, lanes=512))
        gains[machine.name] = seconds(machine, op) / seconds(wider, op)
    assert gains["flat"] == pytest.approx(2)
    assert 1 < gains["fusemax"] < 1.1


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)
def test_refusals(machine: SpatialArray) -> None:
    """Packed weights, quantised caches, other memories and precisions."""
    good = Linear(4, 256, 256, "bf16", 2 * 256 * 256, "bf16", 2)
    assert seconds(machine, good) == seconds(machine, replace(good, format="f16", compute="fp16"))
    for bad in (replace(good, format="q4_0"), replace(good, space="host")):
        with pytest.raises(ValueError, match="store the weights as bf16 or f16"):
            seconds(machine, bad)
    with pytest.raises(ValueError, match="plan with precision bf16"):
        seconds(machine, replace(good, compute="fp8"))
    with pytest.raises(ValueError, match="dense cache"):
        seconds(machine, replace(decode(64), widen_flop=1))


def test_bad_figures_are_refused() -> None:
    """What cannot be an array."""
    with pytest.raises(ValueError, match="lanes must be positive, not 0"):
        replace(FuseMax().figures, lanes=0)
    with pytest.raises(ValueError, match="mac must not be negative"):
        replace(FuseMax().figures.joules, mac=-1.0)
