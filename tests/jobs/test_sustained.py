"""Sustained runs: limits hold, sensors of a made-up machine are read, what is missing is said."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.measure.test_sensors import rapl, write
from tests.models.tiny import tiny_gguf

from twofold.jobs import sustained as module
from twofold.jobs.sustained import Sustained, Window, measure_sustained
from twofold.plan import Plan
from twofold.report import sustained as report


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    model = tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    load = {"prompt": 16, "output": 9, "concurrency": 2, "requests": 2}
    return Plan.from_dict({"model": str(model), "device": "cpu", "workload": load, "engine": {"threads": 1}})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.0)
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "cache"))


def test_requests_are_counted(plan: Plan, tmp_path: Path) -> None:
    found = measure_sustained(plan, requests=5, interval=100.0, root=tmp_path)
    assert (found.requests, found.output_tokens) == (5, 45), "the workload of two began anew"
    assert found.tokens_per_s == pytest.approx(45 / found.seconds)
    assert sum(w.tokens_per_s * (w.end - w.start) for w in found.windows) == pytest.approx(45)
    assert found.energy is None
    assert "no RAPL" in found.missing["energy"]
    assert found.record()["energy"] is None


def test_a_duration_ends_the_run(plan: Plan, tmp_path: Path) -> None:
    ticks = itertools.count(0.0, 0.25)  # a clock that moves whenever it is asked
    found = measure_sustained(plan, seconds=2.0, interval=100.0, root=tmp_path, clock=lambda: next(ticks))
    assert 2 <= found.requests <= 12


def test_energy_memory_and_temperature_are_read(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rapl(tmp_path, 0, 0)
    write(root, {"sys/class/thermal/thermal_zone0/temp": 50_000, "proc/self/status": "VmRSS:\t4 kB"})
    counter = itertools.count(0, 90_000)
    monkeypatch.setattr(module.Sampler, "_watch", lambda self: rapl(root, next(counter) + 90_000, 0))
    found = measure_sustained(plan, requests=2, interval=100.0, root=root)
    assert found.energy is not None
    assert not found.energy.estimated
    assert found.energy.joules_per_token == pytest.approx(0.09 / 18)
    assert found.energy.source == "RAPL: dram, package-0"
    assert found.peak_resident == 4096
    assert found.samples[0].temperature == 50.0
    assert set(found.missing) == {"frequency"}
    cells = [cell for line in report.grid(found).lines for cell in line.cells]
    assert "energy" in cells
    assert "hottest" in cells
    titles = {picture.title for picture in report.pictures(found)}
    assert {"Memory of the process", "Temperature"} <= titles


def test_throttling_compares_the_ends() -> None:
    windows = [Window(i, i + 1.0, 10.0 - i) for i in range(8)]
    found = Sustained("m", "cpu", "baseline", 8.0, 1, 52, windows, [], None, {})
    assert found.throttled == pytest.approx((4.0 + 3.0) / (10.0 + 9.0))
    assert Sustained("m", "cpu", "baseline", 8.0, 1, 52, windows[:3], [], None, {}).throttled is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "either a duration or"),
        ({"seconds": 1.0, "requests": 1}, "either a duration or"),
        ({"seconds": -1.0}, "above 0"),
        ({"requests": 1, "interval": 0.0}, "above 0"),
    ],
)
def test_limits_must_make_sense(plan: Plan, arguments: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        measure_sustained(plan, **arguments)  # type: ignore[arg-type]


def test_modelled_devices_are_refused(plan: Plan) -> None:
    with pytest.raises(ValueError, match="modelled device"):
        measure_sustained(plan.model_copy(update={"device": "h100-sxm"}), requests=1)
