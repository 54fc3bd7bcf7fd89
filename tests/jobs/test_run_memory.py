"""What a run says it held beyond what it counts: the same whatever the process did before."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.devices.calibrated_file import calibrated_file

from twofold.jobs.compare import with_derived
from twofold.jobs.predict import predict_plan
from twofold.jobs.run import run_plan
from twofold.models.registry import cached_path
from twofold.plan import Plan
from twofold.report.schema import Result

LOAD = {"requests": 4, "concurrency": 2, "prompt": 256, "output": 4}
MB = 1e6


def _held(result: Result) -> float:
    """Bytes that were measured, of what a prediction counts."""
    assert result.memory.unaccounted is not None
    return result.memory.total.mid + result.memory.unaccounted.mid


@pytest.mark.skipif(
    cached_path("smollm2-135m") is None, reason="the model is not here: twofold pull smollm2-135m"
)
def test_measured_and_predicted_memory_mean_the_same(tmp_path: Path) -> None:
    """Half of the prompts' blocks are kept for later prompts in the end, and the model's file is mapped
    before the second run: neither counts."""
    values = {"model": "smollm2-135m", "workload": LOAD, "quality": {"enabled": False}}
    plan = Plan.from_dict({**values, "engine": {"max_context": 512}})
    device = tmp_path / "calibrated.yaml"
    device.write_text(yaml.safe_dump(calibrated_file().model_dump(mode="json", exclude_none=True)))
    runs = [run_plan(plan).result for _ in range(2)]
    counted = runs[1].memory.total.mid
    predicted = predict_plan(with_derived(plan, runs[1].derived), str(device)).memory.total.mid
    assert counted == pytest.approx(predicted, rel=0.01)
    assert abs(_held(runs[0]) - _held(runs[1])) < 30 * MB  # libraries that the first run loads
    assert _held(runs[1]) == pytest.approx(predicted, rel=0.25)
