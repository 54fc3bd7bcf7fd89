"""DRACO and its baseline: what wider groups change, and what the array refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.claims.setups.draco import GROUPS, mobilenet, seconds, utilisation, with_groups
from twofold.devices.machines.draco import Draco
from twofold.devices.machines.row_stationary import RowStationaryArray
from twofold.ops import Activate, Attention, Conv2d, Linear, Op
from twofold.ops.attention import Span, total_spans

BASE = RowStationaryArray()


def time(machine: RowStationaryArray, op: Op) -> float:
    return machine.charge(op, op.cost()).seconds


def test_network() -> None:
    """MobileNetV1 as published: 569 million multiply-accumulates, 4.2 million weights."""
    layers = list(mobilenet())
    assert len(layers) == 28
    assert sum(op.macs for op in layers) == pytest.approx(569e6, rel=0.01)
    assert sum(op.weight_bytes for op in layers) / 2 == pytest.approx(4.2e6, rel=0.01)


def test_groups_of_one_change_nothing() -> None:
    """The machine is its baseline; other convolutions and language models never change."""
    same = with_groups(1)
    assert seconds(same) == pytest.approx(seconds(BASE))
    assert utilisation(same) == utilisation(BASE)
    for op in (
        next(mobilenet()),
        Linear(4, 1024, 1024, "bf16", 2 << 20, "bf16", 2),
        Attention(total_spans([Span(1, 500)]), 8, 8, 64, 64, 4 * 8 * 64 * 500, "bf16", 2),
    ):
        assert time(Draco(), op) == time(BASE, op)


def test_four_channels_take_the_least_time() -> None:
    """What the machine's figure rests on: wider groups fill the array, until they only add work."""
    assert min(GROUPS, key=lambda channels: seconds(with_groups(channels))) == Draco().figures.channels
    busy = [utilisation(with_groups(channels)) for channels in GROUPS]
    assert busy == sorted(busy)


def test_depthwise_layers_are_replaced() -> None:
    """More work, more weights, less time; groups are as wide as the channels allow."""
    op = [layer for layer in mobilenet() if layer.groups > 1][3]
    wider = Draco().changed(op)
    assert wider.macs == 4 * op.macs
    assert wider.weight_bytes == 4 * op.weight_bytes
    assert time(Draco(), op) < time(BASE, op) / 2
    odd = Conv2d(1, 15, 15, 8, 8, 3, "f16", 15 * 9 * 2, "fp16", 2, padding=1, groups=15)
    assert Draco().changed(odd).groups == 3
    narrow = replace(odd, in_channels=3, out_channels=3, groups=3, weight_bytes=54)
    assert Draco().changed(narrow).groups == 1


def test_refusals() -> None:
    """Packed weights, other memories, quantised caches, other precisions."""
    good = Linear(4, 256, 256, "bf16", 2 * 256 * 256, "bf16", 2)
    assert time(BASE, good) == time(BASE, replace(good, format="f16", compute="fp16"))
    for bad in (replace(good, format="q4_0"), replace(good, space="host")):
        with pytest.raises(ValueError, match="store the weights as bf16 or f16"):
            time(BASE, bad)
    with pytest.raises(ValueError, match="plan with precision bf16"):
        time(BASE, replace(good, compute="fp8"))
    cache = Attention(total_spans([Span(1, 50)]), 8, 8, 64, 64, 4 * 8 * 64 * 50, "bf16", 2, widen_flop=1)
    with pytest.raises(ValueError, match="dense cache"):
        time(BASE, cache)
    assert time(BASE, Activate(1, 64, "relu", False, 2)) > 0


def test_bad_figures_are_refused() -> None:
    """What cannot be an array."""
    with pytest.raises(ValueError, match="lanes must be positive, not 0"):
        replace(BASE.figures, lanes=0)
    with pytest.raises(ValueError, match="channels must be positive, not 0"):
        with_groups(0)
