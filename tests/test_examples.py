"""Every plan that the project ships is valid and can be predicted."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from twofold.jobs.compare import variants
from twofold.jobs.predict import predict_plan
from twofold.models.catalog import get_spec
from twofold.plan import Plan

EXAMPLES = [
    path
    for path in sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
    if not path.stem.startswith("explore")  # these have a section of their own, see tests/explore
]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_predicted_on_every_device_they_name(path: Path) -> None:
    plan = Plan.load(path)
    assert plan.devices
    for uses in variants(plan):
        for device in plan.devices:
            result = predict_plan(plan.with_techniques(uses), device, spec=get_spec(plan.model))
            assert result.tokens_per_s is not None
            assert result.tokens_per_s.mid > 0


def test_the_demo_names_six_techniques_and_four_devices() -> None:
    with resources.as_file(resources.files("twofold") / "demo.yaml") as path:
        plan = Plan.load(path)
    assert len(plan.techniques) == 6
    assert len(plan.devices) == 4
    assert plan.combinations
