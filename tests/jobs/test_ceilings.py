"""The roofs that a finished prediction names."""

from __future__ import annotations

import pytest

from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.report.comparison import Comparison
from twofold.report.pictures import pictures


def _predicted(device: str) -> Comparison:
    plan = Plan.from_dict({"model": "llama-3.1-8b", "workload": {"requests": 1, "prompt": 64, "output": 2}})
    return Comparison.single(predict_plan(plan, device))


def test_attention_ends_where_its_io_bound_says() -> None:
    made = _predicted("h100-sxm")
    found = made.results[0].ceilings
    assert found is not None
    # 4 M / d FLOP per element, with M the 50 MB of the last cache in elements of two bytes and d = 128.
    assert found.attention_intensity == pytest.approx(4 * 25e6 / 128 / 2)
    roofline = next(picture for picture in pictures(made) if picture.title == "Roofline")
    assert "attention, I/O bound: 390,625 FLOP/byte (beyond the right edge)" in roofline.svg
    assert "dotted line" in roofline.caption


def test_a_machine_of_its_own_has_no_roofs() -> None:
    plan = Plan.from_dict({"model": "gpt2-124m", "workload": {"requests": 1, "prompt": 8, "output": 2}})
    assert predict_plan(plan, "pim-gpt").ceilings is None
