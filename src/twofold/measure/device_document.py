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

from twofold.devices.catalog import THIS_CPU
from twofold.devices.cpu_device import CpuDevice


@dataclass
class Measured:
    """What a calibration of `device` found, in SI units; see `devices.schema.Curves` for the meaning."""

    device: CpuDevice
    read: list[tuple[float, float]] = field(default_factory=list)
    copy: float = 0.0
    matmul: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    exposed: float = 0.0
    op: dict[str, float] = field(default_factory=dict)
    step: float = 0.0
    vector: float = 0.0
    attention_flops: float = 0.0
    attention_read: float = 0.0
    disk: float | None = None


def device_document(m: Measured) -> dict[str, Any]:
    """The device file as plain data."""
    settings = m.device.settings()
    threads = m.device.threads if m.device.context is not None else torch.get_num_threads()
    kernels = " ".join(str(settings[key]) for key in ("kernels", "isa") if key in settings)
    measured, assumed = "measured", "assumed"

    def figure(value: float, source: str = measured) -> dict[str, Any]:
        return {"value": float(value), "source": source}

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
            "matmul": figure(1.0),
            "attention": figure(1.0),
            "vector": figure(1.0),
            "memory": figure(1.0),
            "exposed": figure(m.exposed),
            "cache": figure(1.0),
            "link": figure(1.0, assumed),
            "op": figure(max(m.op.values())),
            "collective": figure(0.0, assumed),
            "step": figure(m.step),
        },
        "units": {"count": figure(threads)},
        "matmul": {
            precision: figure(max(rate for _, rate in points)) for precision, points in m.matmul.items()
        },
        "vector": figure(m.vector),
        "memory": {
            "technology": "ddr5",
            "capacity": figure(memory_bytes()),
            "bandwidth": figure(m.read[-1][1]),
        },
        "host": {"bandwidth": figure(m.copy), "capacity": figure(memory_bytes())},
        "power": {"idle": figure(5.0, assumed), "limit": figure(5.0 + 15.0 * threads, assumed)},
        "curves": {
            "source": measured,
            "read": [list(point) for point in m.read],
            "matmul": {
                precision: [list(point) for point in points] for precision, points in m.matmul.items()
            },
            "attention_flops": m.attention_flops,
            "attention_read": m.attention_read,
            "attention_gathers": m.device.context is None,
            "op": m.op,
        },
    }
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
