"""A quick calibration: it writes a file that the catalogue reads and whose figures hang together."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from twofold.devices.calibrated import Calibrated
from twofold.devices.catalog import get_device, this_cpu_path
from twofold.measure.calibrate import Calibration, calibrate
from twofold.ops import Linear, Norm


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    seen: list[tuple[str, int, int]] = []
    path = tmp_path_factory.mktemp("calibration") / "devices" / "this-cpu.yaml"
    found = calibrate(quick=True, progress=lambda *step: seen.append(step), path=path)
    assert [done for _, done, _ in seen] == list(range(seen[-1][2] + 1))
    return found


def test_the_file_is_read_back(calibration: Calibration) -> None:
    device = get_device(str(calibration.path))
    assert device == calibration.device
    assert device.confidence == "calibrated"
    assert device.curves is not None
    assert device.curves.read == calibration.measured.read


def test_this_cpu_finds_it(calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path))
    this_cpu_path().parent.mkdir(parents=True)
    this_cpu_path().write_text(calibration.path.read_text(encoding="utf-8"), encoding="utf-8")
    assert Calibrated(get_device("this-cpu")).native_precision == "fp32"


def test_every_kind_of_op_was_measured(calibration: Calibration) -> None:
    m = calibration.measured
    assert set(m.kinds) == {"norm", "rotary", "activation", "embedding", "cache-write"}
    assert all(0 < found.call < 1.0 for found in m.kinds.values())
    assert (m.device.cache_format or "") in m.attention
    assert any(name.startswith("kivi") for name in m.attention)


def test_figures_are_positive_and_shown(calibration: Calibration) -> None:
    m = calibration.measured
    assert min(m.copy, m.call) > 0
    assert min(m.step, m.sequence, m.unrecorded, m.exposed) >= 0
    assert all(y > 0 for found in m.attention.values() for _, y in [*found.read, *found.queries])
    assert len(calibration.rows()) >= len(m.read) + 3 * len(m.products) + 3 * len(m.attention)


def test_weights_and_cache_are_held_as_the_device_holds_them(calibration: Calibration) -> None:
    kernels = calibration.measured.device
    device = Calibrated(calibration.device)
    assert (device.stored_weights, device.cache_format) == (kernels.stored_weights, kernels.cache_format)
    if kernels.stored_weights:
        precisions = {name.partition(":")[2] for name in calibration.measured.products}
        assert precisions == {"int8", "fp32", "int1"}


def test_more_work_takes_more_predicted_time(calibration: Calibration) -> None:
    device = Calibrated(calibration.device)
    times = [
        device.charge(op, op.cost()).seconds
        for op in (Linear(rows, 576, 1536, "f32", 4 * 576 * 1536, "fp32", 4) for rows in (1, 4, 32, 512))
    ]
    assert all(more >= less * (1 - 1e-9) for less, more in pairwise(times)), times
    larger = Norm(512, 576, "rms", 4)
    smaller = Norm(1, 576, "rms", 4)
    assert device.charge(larger, larger.cost()).seconds > device.charge(smaller, smaller.cost()).seconds


def test_a_larger_resident_plan_streams_no_faster(calibration: Calibration) -> None:
    device = Calibrated(calibration.device)
    rates = []
    for resident in (1 << 20, 1 << 26, 1 << 32):
        device.resident_bytes = resident
        rates.append(device.bandwidth)
    assert all(more <= less * (1 + 1e-9) for less, more in pairwise(rates)), rates


def test_microbenchmarks_stand_in_the_file(calibration: Calibration) -> None:
    found = calibration.device.microbenchmarks
    assert found is not None
    assert found == calibration.measured.micro
    if calibration.measured.device.context is None:
        assert found.missing
        return
    benches = {reading.bench for reading in found.readings}
    assert {"copy", "triad", "latency", "int8 product", "fp32 product", "launch"} <= benches
    assert all(reading.value > 0 for reading in found.readings if reading.bench != "launch")


def test_formats_that_nothing_has_registered_are_left_aside(calibration: Calibration) -> None:
    """A process that only predicts has not imported the techniques whose formats the file names."""
    names = [name for name in calibration.measured.products if name.startswith("mx")]
    assert names
    code = (
        "from pathlib import Path; from twofold.devices.calibrated import Calibrated\n"
        "from twofold.devices.catalog import read_device; from twofold.ops import Linear\n"
        f"device = Calibrated(read_device(Path({str(calibration.path)!r})))\n"
        "op = Linear(1, 512, 512, 'q5_0', 512 * 352, 'int8', 4)\n"
        "print(device.charge(op, op.cost()).seconds)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0
