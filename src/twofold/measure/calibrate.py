"""Calibration: measure this CPU through the kernels that run models here, and write its device file.

What is measured is what the roofline asks for: bandwidth by working set, FLOP/s by rows, what reading the
cache and calling an op cost. Nothing is fitted to a whole model.
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
from twofold.devices.curves import Curve
from twofold.devices.registry import Kernels
from twofold.devices.schema import DeviceFile
from twofold.measure.device_document import Measured, device_document, memory_bytes
from twofold.measure.probe import NARROW, WIDE, Probe, seconds_of
from twofold.measure.products import Products
from twofold.ops.formats import PACKED_ROWS

Progress = Callable[[str, int, int], None]

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SHAPES = ((576, 1536), (1536, 576), (1024, 4096))
"""(in, out) of the products that FLOP/s are measured on."""

STREAM_COLS, STREAM_ROWS = 1024, 1024
VECTOR_KINDS = ("norm", "rotary", "activation")


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
        for precision, points in m.matmul.items():
            table += [
                (f"matmul {precision}, {rows:.0f} rows", f"{rate / 1e9:.1f} GFLOP/s") for rows, rate in points
            ]
        table.append(("computing not hidden by streaming", f"{m.exposed:.0%}"))
        table += [(f"calling {kind}", f"{seconds * 1e6:.1f} us") for kind, seconds in sorted(m.op.items())]
        table.append(("host work per step", f"{m.step * 1e6:.0f} us"))
        table.append(("elementwise", f"{m.vector / 1e9:.1f} GFLOP/s"))
        table.append(("attention, many queries", f"{m.attention_flops / 1e9:.1f} GFLOP/s"))
        table.append(("attention, one query", f"{m.attention_read / 1e9:.1f} GB/s"))
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
    is looked for). quick: fewer sizes and repeats, under 15 seconds instead of a minute.

    progress(what, done, total) is called before each part. OSError where the file cannot be written.
    """
    device = CpuDevice(kernels=kernels, profile=True)
    m = Measured(device)
    busy = _busy()
    parts: list[tuple[str, Callable[[], None]]] = [
        ("calls", lambda: _measure_calls(m, device, quick)),
        ("products", lambda: _measure_matmul(m, device, quick)),
        ("bandwidth", lambda: _measure_read(m, device, quick)),
        ("attention", lambda: _measure_attention(m, device, quick)),
        ("disk", lambda: _measure_disk(m, quick)),
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


def _measure_calls(m: Measured, device: CpuDevice, quick: bool) -> None:
    """What ops cost besides their work: products of a model so narrow that there is nothing to compute; the
    other ops at one token between products that sweep the inner caches, as in a real model. And what the
    engine does per step besides its ops, the choice of a token included."""
    narrow, wide = Probe(NARROW, 64, device), Probe(WIDE, 64, device)
    budget = 0.5 if quick else 2.0
    totals = narrow.by_kind(1, 8, budget)
    ops = sum(total.seconds for total in totals.values())
    m.step = max(0.0, narrow.token_seconds(4 if quick else 12) - ops)
    linear = totals["linear"]
    totals = {**wide.by_kind(1, 8, budget), "linear": linear}
    m.op = {kind: total.seconds / total.calls for kind, total in totals.items()} | {"sample": 0.0}


def _measure_read(m: Measured, device: CpuDevice, quick: bool) -> None:
    """Bytes/s of products with one row, by the bytes of all weights that are gone through in turn."""
    largest = min(1 << 30, memory_bytes() // 8)
    sizes = [1 << b for b in range(16, 31, 2 if quick else 1) if 1 << b <= largest]
    packed = device.stored_weights
    call = m.op["linear"]
    for size in sizes:
        row = Products(device, PACKED_ROWS, STREAM_COLS, 1, packed=packed).nbytes // PACKED_ROWS
        rows = max(PACKED_ROWS, min(STREAM_ROWS, size // row // PACKED_ROWS * PACKED_ROWS))
        products = Products(device, rows, STREAM_COLS, max(1, size // (row * rows)), packed=packed)
        seconds = products.seconds(1, 0.15 if quick else 0.5)
        m.read.append((float(products.nbytes), products.nbytes / _net(seconds, products.count * call)))
    m.exposed = _exposed(m, products)
    source = torch.full((min(largest // 4, 1 << 26),), 0.5)
    target = torch.empty_like(source)
    m.copy = 2 * 4 * source.numel() / seconds_of(lambda: target.copy_(source), 0.2)


def _exposed(m: Measured, products: Products) -> float:
    """How much of the shorter of computing and streaming the longer does not hide: products of a few rows
    whose weights do not fit any cache, against the rates of both apart."""
    rate = Curve.rate(m.matmul["int8" if products.packed else "fp32"])
    weights = products.count * products.rows * products.cols
    excess = hidden = 0.0
    for rows in (8, 16, 32):
        seconds = _net(products.seconds(rows, 0.0), products.count * m.op["linear"])
        compute = 2.0 * rows * weights / rate(rows)
        stream = products.nbytes / m.read[-1][1]
        excess += seconds - max(compute, stream)
        hidden += min(compute, stream)
    return min(1.0, max(0.0, excess / hidden))


def _measure_matmul(m: Measured, device: CpuDevice, quick: bool) -> None:
    """FLOP/s by rows with cached weights, by the precision of the products."""
    call = m.op["linear"]
    for precision in ("int8", "fp32") if device.stored_weights else ("fp32",):
        groups = [Products(device, cols, depth, 1, packed=precision == "int8") for depth, cols in SHAPES]
        points = []
        for rows in ROWS:
            flop = seconds = 0.0
            for products in groups:
                seconds += _net(products.seconds(rows, 0.03 if quick else 0.2), call)
                flop += 2.0 * rows * products.rows * products.cols
            points.append((float(rows), flop / seconds))
        m.matmul[precision] = points


def _measure_attention(m: Measured, device: CpuDevice, quick: bool) -> None:
    """Elementwise ops and attention of a model as wide as a small real one."""
    keys = 1024 if quick else 2048
    probe = Probe(WIDE, keys, device)
    budget = 0.5 if quick else 2.0
    prefill = probe.by_kind(256, 256, budget)
    work = sum(prefill[kind].vector_flop for kind in VECTOR_KINDS)
    m.vector = work / sum(_net(prefill[k].seconds, prefill[k].calls * m.op[k]) for k in VECTOR_KINDS)
    many = prefill["attention"]
    m.attention_flops = many.flop / _net(many.seconds, many.calls * m.op["attention"])
    few = probe.by_kind(1, keys, budget)["attention"]
    m.attention_read = few.bytes_moved / _net(few.seconds, few.calls * m.op["attention"])


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


def _net(seconds: float, calling: float) -> float:
    """`seconds` without what calling the ops took; at least a fifth, where noise would leave nothing."""
    return max(seconds - calling, 0.2 * seconds)


def _busy() -> bool:
    """Whether more than half a processor was in use over the last minute, by the system's load average."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.5


def _size(nbytes: float) -> str:
    return f"{nbytes / 2**20:g} MiB" if nbytes >= 2**20 else f"{nbytes / 2**10:g} KiB"
