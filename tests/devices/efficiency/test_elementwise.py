"""Elementwise time: bounded by memory, paced by units, whole rows to a unit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.devices.catalog import get_device
from twofold.devices.efficiency.elementwise import ElementwiseTime, kernel_of
from twofold.devices.efficiency.machine import Machine
from twofold.ops import Activate, AddNorm, Norm, Sample
from twofold.ops.base import Op
from twofold.ops.elementwise import Add, Embedding, RotaryQKV

H100 = get_device("h100-sxm")
MODEL = ElementwiseTime(H100.efficiency.elementwise, Machine.of(H100))


def seconds(op: Op) -> float:
    return MODEL.seconds(op, op.cost())[0]


OPS = (
    Norm(4096, 4096, "rms", 2),
    AddNorm(4096, 4096, "rms", 2),
    Activate(4096, 11008, "silu", True, 2),
    RotaryQKV(4096, 32, 32, 128, 128, False, 2),
    Add(4096, 4096, 2),
    Embedding(4096, 4096, 8192, 2),
)


@pytest.mark.parametrize("op", OPS, ids=lambda op: type(op).__name__)
def test_no_op_is_faster_than_the_cache_and_more_tokens_take_longer(op: Op) -> None:
    assert H100.cache is not None
    assert H100.cache.bandwidth is not None
    assert seconds(op) >= op.cost().bytes_moved / H100.cache.bandwidth.value
    times = [seconds(replace(op, tokens=tokens)) for tokens in (1, 16, 200, 1000, 4096, 20_000)]  # type: ignore[call-arg]
    assert times == sorted(times)


def test_sums_stream_and_norms_are_paced() -> None:
    assert kernel_of(Add(1, 1, 2)) is None
    assert [kernel_of(op) for op in (Norm(1, 1, "rms", 2), Norm(1, 1, "layer", 2), Sample(1, 1))] == [
        "norm",
        "layer-norm",
        "softmax",
    ]
    norm, add = Norm(8192, 8192, "rms", 2), Add(8192, 8192, 2)
    assert seconds(norm) / norm.cost().bytes_moved > 1.5 * seconds(add) / add.cost().bytes_moved


def test_a_row_belongs_to_one_unit() -> None:
    one, full = (seconds(Norm(rows, 8192, "rms", 2)) for rows in (1, MODEL.units))
    assert one == pytest.approx(full)
    assert seconds(Norm(2 * MODEL.units, 8192, "rms", 2)) > full


def test_splitting_heads_is_free() -> None:
    shared = RotaryQKV(4096, 32, 8, 128, 128, False, 2)
    assert seconds(shared) < seconds(replace(shared, kv_heads=32))


def test_what_fits_the_cache_is_faster_per_byte() -> None:
    small, large = Add(1024, 4096, 2), Add(65536, 4096, 2)
    assert (seconds(small) - MODEL.launch) / small.cost().bytes_moved < (
        seconds(large) - MODEL.launch
    ) / large.cost().bytes_moved


def test_units_are_paced_by_elements_not_by_their_bytes() -> None:
    half, full = (seconds(Activate(1, 18944, "silu", True, width)) for width in (2, 4))
    assert full == pytest.approx(half, rel=0.1)
