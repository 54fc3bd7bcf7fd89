"""What techniques' own ops take: fitted as sums of what they count, charged by a calibrated device."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.devices.calibrated_file import calibrated_file

from twofold.devices.calibrated import Calibrated
from twofold.devices.calibration import OpCost
from twofold.devices.cpu_device import CpuDevice
from twofold.kernels.cpu import native
from twofold.measure.device_document import Measured
from twofold.measure.own_ops import OpClock, Sample, fitted, least_squares, measure_own_ops
from twofold.ops.attention import Attention, Span, total_spans
from twofold.ops.pruned_attention import RankedAttention


def attention(seqs: int, keys: int, *, queries: int = 1, stored: str = "spatten") -> RankedAttention:
    totals = total_spans([Span(queries, keys)] * seqs)
    nbytes = seqs * keys * 200
    return RankedAttention(totals, 9, 3, 64, 64, nbytes, "fp32", 4, 1000 * seqs * keys, format=stored)


def test_factors_are_found_again() -> None:
    truth = OpCost(call=1e-4, sequence=2e-4, flop=3e-11, elementwise=1e-9)
    ops = [attention(s, k) for s in (1, 4) for k in (64, 512)]
    ops += [attention(1, k, queries=k) for k in (32, 512)]
    samples = [Sample(op, truth.seconds(op, op.cost())[0] * noise) for op in ops for noise in (1.0, 1.0, 3.0)]
    found = fitted(samples)
    for op in (attention(8, 2048), attention(1, 1024, queries=1024)):
        assert found.seconds(op, op.cost())[0] == pytest.approx(truth.seconds(op, op.cost())[0], rel=0.02)


def test_no_factor_is_negative() -> None:
    a = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    assert least_squares(a, np.array([3.0, 2.0, 1.0])) == pytest.approx([2.0, 0.0])
    assert least_squares(a, a @ np.array([0.5, 2.0])) == pytest.approx([0.5, 2.0])


def test_a_clock_shares_out_what_lies_between_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = OpClock(kernels="reference")
    now = iter([0.0, 10.0])
    clock.samples = []

    def work() -> None:
        clock.samples += [Sample(attention(1, 8), 1.0), Sample(attention(1, 9), 3.0)]

    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock.whole(work)
    assert [sample.seconds for sample in clock.taken()] == [2.5, 7.5]
    assert not clock.samples


def test_own_ops_are_charged_what_was_measured_for_them() -> None:
    own = {
        "RankedAttention:spatten": OpCost(call=1e-3, sequence=2e-3),
        "Attention:bfp-4-4": OpCost(call=5e-3),
    }
    device = Calibrated(calibrated_file(own=own))

    def seconds(op: Attention) -> float:
        return device.charge(op, op.cost()).seconds

    assert seconds(attention(3, 64)) == pytest.approx(7e-3)
    assert seconds(attention(3, 64, stored="other")) == pytest.approx(7e-3)  # the same op, stored otherwise
    plain = Attention(total_spans([Span(1, 64)]), 9, 3, 64, 64, 1000, "fp32", 4)
    assert seconds(replace(plain, format="bfp-2-4")) == pytest.approx(5e-3)  # another of the family
    assert seconds(plain) < 1e-3
    assert seconds(replace(plain, format="int8")) < 1e-3


@pytest.mark.skipif(native() is None, reason="no native kernels")
def test_measuring_finds_the_ops_of_a_technique(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twofold.measure.own_ops.TECHNIQUES", ("spatten",))
    monkeypatch.setattr("twofold.measure.own_ops.PLAYS", ((1, 48), (2, 64)))
    m = Measured(CpuDevice(threads=1, profile=True))
    with torch.inference_mode():
        measure_own_ops(m, quick=True)
    assert {"RankedAttention:spatten", "ScoreUpper:spatten", "CacheWrite:spatten"} <= set(m.own)
    assert not any(name.partition(":")[0] in ("Norm", "Linear", "RotaryQKV") for name in m.own)
    op = attention(1, 64)
    assert m.own["RankedAttention:spatten"].seconds(op, op.cost())[0] > 0
