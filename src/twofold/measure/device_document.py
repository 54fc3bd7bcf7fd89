"""What a calibration found, written down as a device file."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from twofold.devices.calibration import AttentionCurve, Curves, KindCurve, OpCost, ProductCurve
from twofold.devices.catalog import THIS_CPU
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.microbench import Microbenchmarks


@dataclass
class Measured:
    """What a calibration of `device` found, in SI units; see `devices.calibration.Curves` for the meaning.
    micro: what the microbenchmarks found, which predictions do not use."""

    device: CpuDevice
    read: list[tuple[float, float]] = field(default_factory=list)
    copy: float = 0.0
    products: dict[str, list[ProductCurve]] = field(default_factory=dict)
    call: float = 0.0
    exposed: float = 0.0
    attention: dict[str, AttentionCurve] = field(default_factory=dict)
    kinds: dict[str, KindCurve] = field(default_factory=dict)
    own: dict[str, OpCost] = field(default_factory=dict)
    step: float = 0.0
    sequence: float = 0.0
    unrecorded: float = 0.0
    disk: float | None = None
    micro: Microbenchmarks | None = None

    def peaks(self) -> dict[str, float]:
        """The best FLOP/s by precision of the products."""
        best: dict[str, float] = {}
        for name, curves in self.products.items():
            precision = name.partition(":")[2]
            best[precision] = max([best.get(precision, 0.0), *(y for c in curves for _, y in c.rate)])
        return best


def device_document(m: Measured) -> dict[str, Any]:
    """The device file as plain data."""
    settings = m.device.settings()
    threads = m.device.threads if m.device.context is not None else torch.get_num_threads()
    kernels = " ".join(str(settings[key]) for key in ("kernels", "isa") if key in settings)
    measured, assumed = "measured", "assumed"

    def figure(value: float, source: str = measured) -> dict[str, Any]:
        return {"value": float(value), "source": source}

    def shares(*names: str) -> dict[str, Any]:
        """Figures of one: what the curves say is what is reached."""
        return {name: figure(1.0) for name in names} | {"launch": figure(m.call)}

    document: dict[str, Any] = {
        "name": THIS_CPU,
        "title": f"{_processor()}, {threads} threads",
        "kind": "cpu",
        "confidence": "calibrated",
        "stored_weights": m.device.stored_weights,
        "cache_format": m.device.cache_format,
        "sources": {
            measured: f"twofold calibrate, kernels {kernels}, torch {torch.__version__}, "
            f"{threads} threads, {_processor()}",
            assumed: "not measurable here: 5 W idle and 15 W per thread, of the order of a desktop core",
        },
        "efficiency": {
            "products": shares("matrix", "narrow", "memory", "cache", "overlap"),
            "elementwise": shares("vector", "memory", "cache"),
            "attention": shares("matrix", "vector", "memory", "cache", "exposed"),
            "collective": {
                "start": figure(0.0, assumed),
                **{name: figure(1.0, assumed) for name in ("step", "blocks", "share")},
            },
            "step": figure(m.step),
        },
        "units": {"count": figure(threads)},
        "matmul": {precision: figure(rate) for precision, rate in m.peaks().items()},
        # Of int1, planes are counted one by one.
        "vector": figure(max(v for k, v in m.peaks().items() if k != "int1") / 16, assumed),
        "memory": {
            "technology": "ddr5",
            "capacity": figure(memory_bytes()),
            "bandwidth": figure(m.read[-1][1]),
        },
        "host": {"bandwidth": figure(m.copy), "capacity": figure(memory_bytes())},
        "power": {"idle": figure(5.0, assumed), "limit": figure(5.0 + 15.0 * threads, assumed)},
        "curves": Curves(
            source=measured,
            read=m.read,
            products=m.products,
            call=m.call,
            exposed=m.exposed,
            attention=m.attention,
            kinds=m.kinds,
            sequence=m.sequence,
            unrecorded=m.unrecorded,
            own=m.own,
        ).model_dump(mode="json"),
    }
    if m.micro is not None:
        document["microbenchmarks"] = m.micro.model_dump(mode="json")
    if m.disk is not None:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        document["disk"] = {"bandwidth": figure(m.disk), "capacity": figure(free)}
    return document


def memory_bytes() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
