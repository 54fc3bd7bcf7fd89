"""Calibration of this machine's GPU: the microbenchmarks, a table of them, a device file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from twofold.devices.catalog import parse_device, this_cpu_path
from twofold.devices.microbench import Microbenchmarks, Reading
from twofold.devices.schema import DeviceFile
from twofold.measure.gpu import dissect, links, rates
from twofold.measure.gpu.document import THIS_GPU, Card, gpu_document, read_power, shares
from twofold.measure.gpu.timing import CudaTimer

SOURCE = "measured"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class GpuCalibration:
    """What was measured, the device that it describes, where it was written to, and the shares of the
    datasheet's figures that were reached."""

    microbenchmarks: Microbenchmarks
    device: DeviceFile
    path: Path
    shares: list[tuple[str, float]]


def this_gpu_path() -> Path:
    """Where the device file is written: beside `this-cpu`'s."""
    return this_cpu_path().with_name(f"{THIS_GPU}.yaml")


def calibrate_gpu(
    *, quick: bool = False, path: Path | None = None, progress: Progress | None = None
) -> GpuCalibration:
    """Measure the first GPU and write its device file to `path` (default: `this_gpu_path`); predictions take
    the file's path as device. ValueError where there is no GPU, or the catalogue lacks the card."""
    if not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no GPU here; use 'cpu'")
    card = read_card()
    where = torch.device("cuda")
    timer = CudaTimer(0.05 if quick else 0.3)
    missing: dict[str, str] = {}
    parts: list[tuple[str, Iterable[Reading]]] = [
        ("bandwidth", rates.bandwidth(timer, where, rates.SIZES[::3] if quick else rates.SIZES)),
        ("products", rates.products(timer, where, missing)),
        ("launches", rates.launches(timer, where)),
        ("copies", links.copies(timer, where)),
        ("GPUs together", links.peers(timer, missing)),
        ("latencies", dissect.dissect(card.capability, card.units, missing)),
    ]
    return write(card, collect(parts, missing, progress), path or this_gpu_path())


def read_card() -> Card:
    """What the driver says of the first GPU, before it is given work."""
    power = read_power()
    properties = torch.cuda.get_device_properties(0)
    return Card(
        properties.name,
        (properties.major, properties.minor),
        properties.multi_processor_count,
        properties.total_memory,
        power,
        f"torch {torch.__version__}, CUDA {torch.version.cuda}",
    )


def collect(
    parts: list[tuple[str, Iterable[Reading]]], missing: dict[str, str], progress: Progress | None = None
) -> Microbenchmarks:
    """Run all parts, one after the other."""
    readings: list[Reading] = []
    for done, (name, part) in enumerate(parts):
        if progress is not None:
            progress(name, done, len(parts))
        readings += part
    if progress is not None:
        progress("done", len(parts), len(parts))
    return Microbenchmarks(source=SOURCE, readings=readings, missing=missing)


def write(card: Card, found: Microbenchmarks, path: Path) -> GpuCalibration:
    """Write the device file and read it back."""
    text = yaml.safe_dump(gpu_document(card, found), sort_keys=False, allow_unicode=True)
    device = parse_device(text, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return GpuCalibration(found, device, path, shares(card, found))
