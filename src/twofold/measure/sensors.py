"""What a machine tells of its energy, temperature and clocks while it works, read from Linux' /sys and /proc.

Every reader takes the root of the file system, so that it can be tried on any tree of files. Where a figure
cannot be read, the reason is kept: no figure is made up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


class EnergyMeter:
    """Joules since it was made, from counters or by adding up power. name: which meter it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def joules(self, now: float) -> float:
        """Joules since the meter was made; `now`: seconds on a steady clock. Call often enough that no
        counter wraps around twice (RAPL: once a minute)."""
        raise NotImplementedError


class Rapl(EnergyMeter):
    """The processor packages' energy counters (Intel and AMD), and the memory's where it has one of its
    own."""

    def __init__(self, zones: list[Path]) -> None:
        super().__init__("RAPL: " + ", ".join(sorted((zone / "name").read_text().strip() for zone in zones)))
        self._zones = zones
        self._wraps = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._last = [self._read(zone) for zone in zones]
        self._joules = 0.0

    @staticmethod
    def _read(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())

    def joules(self, now: float) -> float:
        """Counters wrap around at a size that they state."""
        del now
        for i, zone in enumerate(self._zones):
            value = self._read(zone)
            self._joules += (value - self._last[i]) % self._wraps[i] * 1e-6
            self._last[i] = value
        return self._joules


class Battery(EnergyMeter):
    """Power drawn from batteries that discharge, added up between readings: the whole machine's."""

    def __init__(self, batteries: list[Path], now: float) -> None:
        super().__init__("battery: " + ", ".join(sorted(path.name for path in batteries)))
        self._batteries = batteries
        self._last, self._joules = now, 0.0

    def joules(self, now: float) -> float:
        """The power now is taken for the time since the last reading."""
        watts = sum(_battery_watts(path) or 0.0 for path in self._batteries)
        self._joules += watts * (now - self._last)
        self._last = now
        return self._joules


def find_energy_meter(now: float, root: Path = Path("/")) -> tuple[EnergyMeter | None, str]:
    """The best meter that can be read, else None and why there is none."""
    powercap = root / "sys/class/powercap"
    zones, refused = [], False
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = _text(zone / "name") or ""
        # Packages hold their cores and graphics; memory is a zone of its own, which they leave out.
        if not (name.startswith("package") or name == "dram"):
            continue
        if _text(zone / "energy_uj") is None or _text(zone / "max_energy_range_uj") is None:
            refused = True
        else:
            zones.append(zone)
    if zones:
        return Rapl(zones), ""
    supplies = sorted((root / "sys/class/power_supply").glob("*"))
    batteries = [path for path in supplies if _text(path / "type") == "Battery"]
    discharging = [
        p for p in batteries if _text(p / "status") == "Discharging" and _battery_watts(p) is not None
    ]
    if discharging:
        return Battery(discharging, now), ""
    reasons = []
    if refused:
        reasons.append("RAPL may only be read by root (make /sys/class/powercap/*/energy_uj readable)")
    elif not powercap.is_dir():
        reasons.append("the system shows no RAPL counters (virtual machines seldom do)")
    else:
        reasons.append("no RAPL counter of a processor package")
    reasons.append("no battery that discharges" if batteries else "no battery")
    return None, "; ".join(reasons)


@dataclass(frozen=True)
class Sensors:
    """Readers of everything that changes while a machine works. Each returns None where there is nothing to
    read; `missing` says why."""

    temperature: Callable[[], float | None]
    frequency: Callable[[], float | None]
    resident: Callable[[], int | None]
    missing: dict[str, str] = field(default_factory=dict)


NO_SENSORS = Sensors(lambda: None, lambda: None, lambda: None)
"""Nothing is read: for those who want a meter alone."""


def find_sensors(root: Path = Path("/")) -> Sensors:
    """The sensors that can be read now: the hottest temperature in °C, the mean clock of all cores in Hz, and
    the bytes of this process that are in memory."""
    hot = [
        *sorted((root / "sys/class/thermal").glob("thermal_zone*/temp")),
        *sorted((root / "sys/class/hwmon").glob("hwmon*/temp*_input")),
    ]
    hot = [path for path in hot if _number(path) is not None]
    clocks = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    clocks = [path for path in clocks if _number(path) is not None]
    missing = {}
    if not hot:
        missing["temperature"] = "the system shows no thermal zone or hwmon sensor"
    if not clocks:
        missing["frequency"] = "the system does not tell the cores' clocks (no cpufreq)"
    status = root / "proc/self/status"
    return Sensors(
        lambda: max((v / 1000 for p in hot if (v := _number(p)) is not None), default=None),
        lambda: _mean([v * 1000 for p in clocks if (v := _number(p)) is not None]),
        lambda: _resident(status),
        missing,
    )


def _resident(status: Path) -> int | None:
    for line in (_text(status) or "").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def _battery_watts(path: Path) -> float | None:
    """Power of a battery, stated or as current times voltage (files are in millionths)."""
    power = _number(path / "power_now")
    if power is not None:
        return abs(power) * 1e-6
    current, voltage = _number(path / "current_now"), _number(path / "voltage_now")
    return None if current is None or voltage is None else abs(current) * voltage * 1e-12


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
