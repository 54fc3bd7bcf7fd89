"""A processor that was measured: what packed entries of a cache cost beside those that are not packed yet."""

from __future__ import annotations

import pytest
from tests.devices.calibrated_file import GB, GFLOP, calibrated_file

from twofold.devices.calibrated import Calibrated
from twofold.devices.calibration import AttentionCurve
from twofold.models.cache import Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.cache.kivi import KiviScheme

HEADS = Heads(4, 2, 64, 64, 0.125, None, None, "fp32", 4)
WIDEN = 1e-9


def seconds(entries: int, *, residual: int = 128) -> float:
    """One new token of a sequence with `entries` entries before it, under KIVI with 4 bits."""
    curve = AttentionCurve(
        call=1e-6, sequence=0.0, widen=WIDEN, read=[(1e6, 10 * GB)], queries=[(64.0, 100 * GFLOP)]
    )
    device = Calibrated(calibrated_file(attention={"kivi-4": curve}))
    cache = KiviScheme(4, 32, residual).cache_layer(HEADS, 32, 0)
    _, op = cache.ops(StepInput([Span(1, entries + 1)], 1, 1))
    assert op.widen_flop == 4 * 2 * 64 * (entries - entries % residual + max(0, entries - residual))
    return device.charge(op, op.cost()).seconds


def test_entries_that_are_not_packed_are_only_read() -> None:
    full = 65 * 2 * 2 * 64 * 4
    assert seconds(64) == pytest.approx(1e-6 + full / (10 * GB), rel=1e-6)


def test_packed_entries_are_unpacked_beside_that() -> None:
    """Half as many packed entries take half the unpacking, whatever the window beside them takes."""
    short, long = seconds(256), seconds(512)
    keys, values = 512 - 256, 512 - 256
    unpacking = WIDEN * 4 * 2 * 64 * (keys + values)
    packed = 2 * 64 * (keys + values) // 2 + (keys * 2 * 64 // 32 + values * 2 * 2) * 4
    assert long - short == pytest.approx(unpacking + packed / (10 * GB), rel=0.02)


def test_a_larger_window_costs_its_bytes_and_no_unpacking() -> None:
    assert seconds(256, residual=256) < seconds(256, residual=128)
