"""What arrays of dense 16-bit numbers have in common: when activations pass the DRAM, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.dense_array import DenseArray
from twofold.devices.machines.flat import Flat
from twofold.devices.machines.row_stationary import RowStationaryArray
from twofold.ops import Activate, Attention, CacheWrite, Linear, Op
from twofold.ops.attention import Span, total_spans

every = pytest.mark.parametrize("machine", [Flat(), RowStationaryArray()], ids=lambda m: m.name)


def joules(work_of: DenseArray, op: Op) -> float:
    return work_of.work(op).joules.get("dram", 0.0)


@every
def test_activations_stay_where_the_buffer_holds_them(machine: DenseArray) -> None:
    """A smaller buffer sends them through the DRAM; a larger one keeps them."""
    op = Activate(64, 4096, "silu", True, 2)
    small, large = (machine.make(replace(machine.figures, buffer_bytes=size)) for size in (1 << 16, 1 << 30))
    byte = machine.peaks().joules_per_byte
    assert joules(large, op) == 0.0
    assert joules(small, op) == pytest.approx(op.cost().bytes_moved * byte)


@every
def test_weights_pass_again_for_every_piece_of_a_long_prompt(machine: DenseArray) -> None:
    """Once where inputs and results fit half of the buffer, several times in a small one."""
    op = Linear(256, 1024, 1024, "bf16", 2 * 1024**2, "bf16", 2)
    small, large = (machine.make(replace(machine.figures, buffer_bytes=size)) for size in (1 << 17, 1 << 30))
    byte = machine.peaks().joules_per_byte
    assert joules(large, op) == pytest.approx(op.weight_bytes * byte)
    inputs = results = 256 * 1024 * 2
    assert joules(small, op) == pytest.approx((inputs + 8 * op.weight_bytes + results) * byte)


@every
def test_other_numbers_and_memories_are_refused(machine: DenseArray) -> None:
    """With the reason, and what to do."""
    totals = total_spans([Span(1, 64)])
    for op, why in (
        (Linear(1, 64, 64, "mxint8", 64 * 64, "bf16", 2), "store the weights as bf16 or f16"),
        (Linear(1, 64, 64, "bf16", 2 * 64 * 64, "bf16", 2, space="host"), "in host memory"),
        (Attention(totals, 8, 8, 64, 64, 1000, "bf16", 2, widen_flop=8), "keep a dense cache"),
        (CacheWrite(1, 64, 64, 2, pack_flop=8), "keep a dense cache"),
    ):
        with pytest.raises(ValueError, match=why):
            machine.work(op)
