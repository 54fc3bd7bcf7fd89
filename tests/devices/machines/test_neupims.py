"""NeuPIMs and its baselines: what dual row buffers, packing and sub-batches change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.catalog import get_device
from twofold.devices.machine import Machine
from twofold.devices.machines.neupims import Neupims
from twofold.devices.machines.neupims_naive import NeupimsNaive
from twofold.devices.machines.neupims_npu import NeupimsNpu
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops import Attention, Linear
from twofold.ops.attention import Span, total_spans

NPU, NAIVE, FULL = NeupimsNpu(), NeupimsNaive(), Neupims()


def decode(keys: list[int], heads: int = 32, kv_heads: int = 32) -> Attention:
    totals = total_spans(Span(1, k) for k in keys)
    return Attention(totals, heads, kv_heads, 128, 128, 4 * kv_heads * 128 * sum(keys), "bf16", 2)


def step(on: Machine, batch: int) -> float:
    model = build_model(get_spec("opt-6.7b"), ModelOptions(precision="bf16"))
    on.begin_step()
    model.forward(StepInput([Span(1, 300)] * batch, batch, batch), on)
    return on.end_step().seconds


def test_a_tile_takes_what_the_simulator_has() -> None:
    """A row of every bank of a channel, opened, multiplied and closed: 184 cycles (`_gemv_latency`)."""
    quiet = replace(FULL.figures.hbm, timing=replace(FULL.figures.hbm.timing, refi=0.9, rfc=1e-12))
    on = Neupims(replace(FULL.figures, hbm=quiet, gwrite=0.0))
    op = decode([32], heads=4, kv_heads=4)
    one, two = on._scores(op, 32), on._scores(op, 64)
    assert (one.rows, two.rows, one.macs) == (1, 2, 32)
    # Results of three heads are read while the row is open, that of the last while it closes.
    assert two.seconds - one.seconds == pytest.approx(184e-9 + 3 * quiet.timing.ccd)


def test_banks_beat_the_pins_for_large_batches_only() -> None:
    """A request lies in one channel, whose banks are slower than the pins of all channels."""
    few, many = decode([1000]), decode([1000] * 128)
    assert NAIVE.attention(few).seconds > NPU.attention(few).seconds
    assert NAIVE.attention(many).seconds < NPU.attention(many).seconds / 2
    assert FULL.attention(many).seconds < NAIVE.attention(many).seconds


def test_packing_evens_out_channels() -> None:
    """Equal requests gain nothing over a round robin; unequal ones do, and none beats a perfect share."""
    assert FULL.busiest(64, 1.0, 1.0) == NAIVE.busiest(64, 1.0, 1.0) == 2.0
    assert FULL.busiest(64, 1.0, 1.8) == 2.0 < NAIVE.busiest(64, 1.0, 1.8)
    assert FULL.busiest(8, 1.0, 3.0) == NAIVE.busiest(8, 1.0, 3.0) == 3.0


def test_sub_batches_hide_the_less_busy_unit() -> None:
    """A large batch of single queries takes as long as its busier unit, and its weights are read twice; a
    prompt among them stops that."""
    alone = Neupims(replace(FULL.figures, sub_batches_from=100_000))
    assert step(FULL, 512) < step(alone, 512)
    assert step(FULL, 128) == step(alone, 128)
    op = Linear(512, 4096, 4096, "bf16", 2 * 4096 * 4096, "bf16", 2)
    assert FULL.linear(op).joules["dram"] > 1.3 * alone.linear(op).joules["dram"]
    mixed = replace(decode([300]), totals=total_spans([Span(1, 300)] * 300 + [Span(40, 40)]))
    assert (FULL.unit(decode([300] * 300)), FULL.unit(mixed)) == ("pim", "")
    assert FULL.overlapped(10.0, {"npu": 6.0, "pim": 3.0}) == 7.0


def test_shared_keys_are_opened_once() -> None:
    """Query heads that share keys multiply an open row again: more commands, no more rows."""
    alone, shared = decode([4096] * 32, 8, 8), decode([4096] * 32, 32, 8)
    one, four = FULL._scores(alone, 4096), FULL._scores(shared, 4096)
    assert (four.rows, four.macs) == (one.rows, 4 * one.macs)
    assert one.seconds < four.seconds < 4 * one.seconds


def test_refusals() -> None:
    """What its banks or arrays cannot do."""
    with pytest.raises(ValueError, match="keep a dense cache"):
        FULL.attention(replace(decode([100]), format="int4", widen_flop=100))
    with pytest.raises(ValueError, match="no memory 'host'"):
        FULL.linear(Linear(1, 64, 64, "bf16", 8192, "bf16", 2, space="host"))
    with pytest.raises(ValueError, match="plan with precision bf16"):
        FULL.linear(Linear(1, 64, 64, "bf16", 8192, "int8", 2))


def test_an_idle_npu_draws_what_its_like_does() -> None:
    """A TPU v4 has as many arrays of the size, and a published idle power."""
    assert NeupimsNpu().idle_watts == pytest.approx(get_device("tpu-v4").power.idle.value, rel=0.01)
    assert NeupimsNpu(tp=4).idle_watts == 4 * NeupimsNpu().idle_watts
