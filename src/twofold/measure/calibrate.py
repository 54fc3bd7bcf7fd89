"""Calibration: measure this CPU through the kernels that run models here, and write its device file.

What is measured is what predictions ask for: bandwidth by working set, and per kernel what a call costs and
how fast it works by size. Small probe models run in whole engines, with the techniques that store weights or
cache in their own way; nothing is fitted to a real model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import yaml

from twofold.devices.catalog import parse_device, this_cpu_path
from twofold.devices.cpu_device import CpuDevice
from twofold.devices.registry import Kernels
from twofold.devices.schema import DeviceFile
from twofold.measure.device_document import Measured, device_document, memory_bytes
from twofold.measure.kernels import measure_attention, measure_calls, measure_kinds, measure_products
from twofold.measure.own_ops import measure_own_ops
from twofold.measure.probe import seconds_of
from twofold.measure.products import Products
from twofold.measure.suite import run_suite
from twofold.ops.formats import PACKED_ROWS

Progress = Callable[[str, int, int], None]

STREAM_COLS, STREAM_ROWS = 1024, 1024
HIDING_ROWS = (8, 16, 32)
"""Rows at which computing and streaming take about equally long."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration measured, the device it describes, and the file that it was written to.

    busy: other programs were using the processor when it began, so the figures are too low.
    """

    measured: Measured
    device: DeviceFile
    path: Path
    busy: bool

    def rows(self) -> list[tuple[str, str]]:
        """The figures as (what, value with unit) for a table."""
        m = self.measured
        table = [(f"read, {_size(size)}", f"{rate / 1e9:.1f} GB/s") for size, rate in m.read]
        table.append(("copy", f"{m.copy / 1e9:.1f} GB/s"))
        for name, curves in m.products.items():
            for c in curves:
                label = f"products {name}, {c.size / 1e6:.1f} M weights"
                table += [(f"{label}, {n:.0f} rows", f"{rate / 1e9:.1f} GFLOP/s") for n, rate in c.rate]
        table.append(("computing not hidden by streaming", f"{m.exposed:.0%}"))
        table.append(("calling a product", f"{m.call * 1e6:.1f} us"))
        for kind, found in sorted(m.kinds.items()):
            table.append((f"calling {kind}", f"{found.call * 1e6:.1f} us"))
            table.append((f"{kind}, largest", f"{found.rate[-1][1] / 1e9:.1f} GB/s"))
        for name, attention in m.attention.items():
            label = f"attention {name}".rstrip()
            table += [
                (f"{label}, one query, {_size(size)} in a step", f"{rate / 1e9:.2f} GB/s")
                for size, rate in attention.read
            ]
            table.append((f"{label}, many queries", f"{attention.queries[-1][1] / 1e9:.1f} GFLOP/s"))
            table.append((f"{label}, a sequence", f"{attention.sequence * 1e6:.1f} us"))
        for name, own in sorted(m.own.items()):
            table.append((f"calling {name}, one sequence", f"{(own.call + own.sequence) * 1e6:.0f} us"))
        table.append(("host work per step", f"{m.step * 1e6:.0f} us"))
        table.append(("host work per sequence", f"{m.sequence * 1e6:.1f} us"))
        table.append(("host work per op of a long prompt", f"{m.unrecorded * 1e6:.1f} us"))
        if m.disk is not None:
            table.append(("disk read", f"{m.disk / 1e9:.2f} GB/s"))
        return table


def calibrate(
    *,
    quick: bool = False,
    kernels: Kernels = "auto",
    progress: Progress | None = None,
    path: Path | None = None,
) -> Calibration:
    """Measure this CPU through those `kernels` and write its device file to `path` (default: where `this-cpu`
    is looked for). quick: fewer formats, sizes and repeats, half a minute instead of several.

    progress(what, done, total) is called before each part. OSError where the file cannot be written.
    """
    device = CpuDevice(kernels=kernels, profile=True)
    m = Measured(device)
    busy = _busy()
    parts: list[tuple[str, Callable[[], None]]] = [
        ("calls", lambda: measure_calls(m, quick)),
        ("bandwidth", lambda: _measure_read(m, quick)),
        ("products", lambda: measure_products(m, quick)),
        ("elementwise", lambda: measure_kinds(m, quick)),
        ("attention", lambda: measure_attention(m, quick)),
        ("techniques", lambda: measure_own_ops(m, quick)),
        ("disk", lambda: _measure_disk(m, quick)),
        ("microbenchmarks", lambda: _measure_micro(m, device, quick)),
    ]
    with torch.inference_mode():
        for done, (name, part) in enumerate(parts):
            if progress is not None:
                progress(name, done, len(parts))
            part()
    if progress is not None:
        progress("done", len(parts), len(parts))
    target = path or this_cpu_path()
    text = yaml.safe_dump(device_document(m), sort_keys=False, allow_unicode=True)
    file = parse_device(text, str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return Calibration(m, file, target, busy)


def _measure_read(m: Measured, quick: bool) -> None:
    """Bytes/s of products with one row, by the bytes of all weights that are gone through in turn."""
    largest = min(1 << 30, memory_bytes() // 8)
    sizes = [1 << b for b in range(16, 31, 2 if quick else 1) if 1 << b <= largest]
    packed = m.device.stored_weights
    for size in sizes:
        row = Products(m.device, PACKED_ROWS, STREAM_COLS, 1, packed=packed).nbytes // PACKED_ROWS
        rows = max(PACKED_ROWS, min(STREAM_ROWS, size // row // PACKED_ROWS * PACKED_ROWS))
        products = Products(m.device, rows, STREAM_COLS, max(1, size // (row * rows)), packed=packed)
        seconds = products.seconds(1, 0.15 if quick else 0.5)
        m.read.append((float(products.nbytes), products.nbytes / _net(seconds, products.count * m.call)))
    m.exposed = _exposed(m, products, quick)
    source = torch.full((min(largest // 4, 1 << 26),), 0.5)
    target = torch.empty_like(source)
    m.copy = 2 * 4 * source.numel() / seconds_of(lambda: target.copy_(source), 0.2)


def _exposed(m: Measured, products: Products, quick: bool) -> float:
    """How much of the shorter of computing and streaming the longer does not hide: products of a few rows
    whose weights do not fit any cache, against the rates of both apart."""
    near = Products(m.device, STREAM_ROWS, STREAM_COLS, 1, packed=products.packed)
    excess = hidden = 0.0
    for rows in HIDING_ROWS:
        calls = products.count * m.call
        compute = _net(near.seconds(rows, 0.03 if quick else 0.2), m.call) * products.nbytes / near.nbytes
        stream = products.nbytes / m.read[-1][1]
        excess += _net(products.seconds(rows, 0.3), calls) - max(compute, stream)
        hidden += min(compute, stream)
    return min(1.0, max(0.0, excess / hidden))


def _measure_disk(m: Measured, quick: bool) -> None:
    """Bytes/s of reading a file that the system has been told to drop from memory; None where it cannot be
    told."""
    if not hasattr(os, "posix_fadvise"):
        return
    size = (64 if quick else 256) << 20
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = perf_counter()
        with open(file.name, "rb", buffering=0) as again:
            while again.read(4 << 20):
                pass
        m.disk = size / (perf_counter() - start)


def _measure_micro(m: Measured, device: CpuDevice, quick: bool) -> None:
    """The microbenchmarks, which stand in the file for themselves."""
    m.micro = run_suite(device, source="measured", quick=quick)


def _net(seconds: float, calling: float) -> float:
    """`seconds` without what calling the ops took; at least a fifth, where noise would leave nothing."""
    return max(seconds - calling, 0.2 * seconds)


def _busy() -> bool:
    """Whether more than half a processor was in use over the last minute, by the system's load average."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5


def _size(nbytes: float) -> str:
    return f"{nbytes / 2**20:g} MiB" if nbytes >= 2**20 else f"{nbytes / 2**10:g} KiB"
