"""Every predicted figure has its interval and label; what is counted is exact."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from twofold.devices.registry import make_device
from twofold.devices.uncertainty import confidence_of, spread
from twofold.jobs.intervals import inverse, precision_in, precision_of, standing_of, widened
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.report.schema import FIGURES, Figure, Result


@cache
def predicted(device: str = "h100-sxm", **engine: str) -> Result:
    load = {"requests": 4, "prompt": 64, "output": 8, "concurrency": 2}
    plan = Plan.from_dict({"model": "gpt2-xl", "device": device, "workload": load, "engine": engine})
    return predict_plan(plan, device)


def test_every_figure_of_a_prediction_has_an_interval() -> None:
    result = predicted()
    figures = [f for name in FIGURES if name != "quality" and (f := result.figure(name)) is not None]
    assert len(figures) == 9
    figures += [figure for shares in result.percentiles.values() for figure in shares.values()]
    assert all(figure.low < figure.mid < figure.high for figure in figures)
    assert result.intervals.startswith("95 % intervals")


def test_memory_is_counted_and_exact() -> None:
    memory = predicted().memory
    assert memory.total.is_exact
    assert memory.weights.is_exact


def test_the_interval_is_that_of_where_the_prediction_stands() -> None:
    result = predicted()
    standing = standing_of(make_device("h100-sxm"), "bf16", 2, 72)
    assert (standing.kind, standing.generation, standing.label) == ("gpu", "hopper", "datasheet")
    assert result.tpot is not None
    expected = spread("tpot", standing)
    assert result.tpot.high / result.tpot.mid == pytest.approx(max(expected.high, 1.0))
    slow, fast = result.percentiles["tpot"]["p90"], result.tpot
    assert slow.high / slow.mid == pytest.approx(fast.high / fast.mid)


def test_a_machine_of_a_kind_never_measured_is_not_validated() -> None:
    pim = predicted("pim-gpt")
    assert pim.confidence == "not validated"
    assert predicted().confidence == confidence_of(standing_of(make_device("h100-sxm"), "bf16"))
    assert pim.tpot is not None
    known = predicted().tpot
    assert known is not None
    assert pim.tpot.high / pim.tpot.low > known.high / known.low


def test_the_precision_is_that_of_the_narrower_of_products_and_weights() -> None:
    assert precision_of(predicted()) == "bf16"
    assert precision_of(predicted(weights="int4wo-128")) == "int4wo-128"
    assert precision_in({"precision": "bf16", "weights": "dense"}, [{"format": "mxint8"}]) == "mxint8"
    assert precision_in({"precision": "fp32", "weights": "stored"}, []) == "fp32"


def test_a_rate_has_the_inverse_interval_of_its_time() -> None:
    standing = standing_of(make_device("h100-sxm"), "bf16")
    time = spread("ttft", standing)
    rate = inverse(time)
    assert (rate.low * time.high, rate.high * time.low) == (pytest.approx(1), pytest.approx(1))


def test_the_middle_stays_inside_its_interval() -> None:
    found = spread("tpot", standing_of(make_device("h100-sxm"), "bf16"))
    biased = replace(found, low=1.1, high=1.3)
    assert widened(Figure.exact(2.0, "s"), biased) == Figure(low=2.0, mid=2.0, high=2.6, unit="s")


def test_the_plan_is_kept_with_the_result() -> None:
    plan = Plan.from_dict(predicted().plan)
    assert plan.model == "gpt2-xl"
    assert plan.workload.prompt == 64
