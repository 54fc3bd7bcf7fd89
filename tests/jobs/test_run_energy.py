"""Energy of a measured run: a meter's joules per output token, or why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.models.tiny import tiny_gguf

from twofold.jobs import run as module
from twofold.jobs.run import run_plan
from twofold.measure.sensors import EnergyMeter
from twofold.plan import Plan


class ThreeJoules(EnergyMeter):
    """Says three joules more each time it is asked."""

    def __init__(self) -> None:
        super().__init__("test")
        self.total = 0.0

    def joules(self, now: float) -> float:
        self.total += 3.0
        return self.total


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    model = tiny_gguf(tmp_path / "tiny.gguf")
    load = {"prompt": 16, "output": 5, "requests": 2}
    values = {"model": str(model), "device": "cpu", "workload": load, "quality": {"enabled": False}}
    return Plan.from_dict({**values, "engine": {"threads": 1}})


def test_a_meter_is_read(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = ThreeJoules()
    monkeypatch.setattr(module, "find_energy_meter", lambda now: (meter, ""))
    result = run_plan(plan).result
    assert result.energy_per_token is not None
    # Asked when the sampler starts (the zero), for its first and for its last sample, and now and then
    # where the run takes long.
    assert meter.total >= 9.0
    assert result.energy_per_token.mid == pytest.approx((meter.total - 3.0) / 10)
    assert "energy_per_token" not in result.missing


def test_without_a_meter_the_reason_is_given(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_energy_meter", lambda now: (None, "no counter here"))
    result = run_plan(plan).result
    assert result.energy_per_token is None
    assert result.missing["energy_per_token"] == "no counter here; a prediction for this-cpu estimates it"
