"""Sensors, read from trees of files made for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from twofold.measure.sampler import Sampler
from twofold.measure.sensors import NO_SENSORS, Battery, Rapl, find_energy_meter, find_sensors


def write(root: Path, files: dict[str, object]) -> Path:
    """A tree of small files."""
    for path, text in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def rapl(root: Path, package: int, dram: int) -> Path:
    base = "sys/class/powercap"
    return write(
        root,
        {
            f"{base}/intel-rapl:0/name": "package-0",
            f"{base}/intel-rapl:0/energy_uj": package,
            f"{base}/intel-rapl:0/max_energy_range_uj": 1_000_000,
            f"{base}/intel-rapl:0:0/name": "core",
            f"{base}/intel-rapl:0:0/energy_uj": 7,
            f"{base}/intel-rapl:0:0/max_energy_range_uj": 1_000_000,
            f"{base}/intel-rapl:0:1/name": "dram",
            f"{base}/intel-rapl:0:1/energy_uj": dram,
            f"{base}/intel-rapl:0:1/max_energy_range_uj": 500_000,
        },
    )


def test_rapl_adds_package_and_memory_and_follows_wraps(tmp_path: Path) -> None:
    meter, why = find_energy_meter(0.0, rapl(tmp_path, 900_000, 100_000))
    assert isinstance(meter, Rapl)
    assert not why
    assert meter.name == "RAPL: dram, package-0"
    assert meter.joules(1.0) == 0.0
    rapl(tmp_path, 950_000, 150_000)
    assert meter.joules(2.0) == pytest.approx(0.1)
    rapl(tmp_path, 20_000, 160_000)  # the package's counter began anew
    assert meter.joules(3.0) == pytest.approx(0.1 + 0.07 + 0.01)


def test_a_counter_without_permission_is_said(tmp_path: Path) -> None:
    root = rapl(tmp_path, 0, 0)
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()  # root reads all: absence stands in
    (root / "sys/class/powercap/intel-rapl:0:1/energy_uj").unlink()
    meter, why = find_energy_meter(0.0, root)
    assert meter is None
    assert "may only be read by root" in why


@pytest.mark.parametrize(
    "reading", [{"power_now": 12_000_000}, {"current_now": 1_000_000, "voltage_now": 12_000_000}]
)
def test_a_battery_is_integrated(tmp_path: Path, reading: dict[str, int]) -> None:
    base = "sys/class/power_supply/BAT0"
    files = {"type": "Battery", "status": "Discharging", **reading}
    write(tmp_path, {f"{base}/{name}": text for name, text in files.items()})
    meter, _ = find_energy_meter(100.0, tmp_path)
    assert isinstance(meter, Battery)
    assert meter.joules(102.0) == pytest.approx(24.0)
    assert meter.joules(102.5) == pytest.approx(30.0)


def test_a_charging_battery_tells_nothing(tmp_path: Path) -> None:
    base = "sys/class/power_supply/BAT0"
    files = {"type": "Battery", "status": "Charging", "power_now": 5}
    write(tmp_path, {f"{base}/{name}": text for name, text in files.items()})
    meter, why = find_energy_meter(0.0, tmp_path)
    assert meter is None
    assert "no RAPL" in why
    assert "no battery that discharges" in why


def test_nothing_readable_is_said(tmp_path: Path) -> None:
    meter, why = find_energy_meter(0.0, tmp_path)
    assert meter is None
    assert why == "the system shows no RAPL counters (virtual machines seldom do); no battery"
    sensors = find_sensors(tmp_path)
    assert set(sensors.missing) == {"temperature", "frequency"}
    assert sensors.temperature() is sensors.frequency() is sensors.resident() is None


def test_sensors_read_the_hottest_and_the_mean_clock(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "sys/class/thermal/thermal_zone0/temp": 41_000,
            "sys/class/hwmon/hwmon1/temp2_input": 63_500,
            "sys/class/hwmon/hwmon1/temp3_input": "unreadable",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 3_000_000,
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": 2_000_000,
            "proc/self/status": "Name:\tx\nVmRSS:\t    2048 kB",
        },
    )
    sensors = find_sensors(tmp_path)
    assert sensors.missing == {}
    assert sensors.temperature() == 63.5
    assert sensors.frequency() == 2.5e9
    assert sensors.resident() == 2048 * 1024


def test_a_sampler_takes_its_first_and_last_sample(tmp_path: Path) -> None:
    root = rapl(tmp_path, 0, 0)
    meter, _ = find_energy_meter(0.0, root)
    with Sampler(meter, find_sensors(root), 100.0) as sampler:
        rapl(tmp_path, 250_000, 50_000)
    assert len(sampler.samples) == 2
    assert sampler.samples[0].joules == 0.0
    assert sampler.joules == pytest.approx(0.3)
    with Sampler(None, NO_SENSORS, 100.0) as silent:
        pass
    assert silent.joules is None
    assert silent.samples[0][1:] == (None, None, None, None)
