"""Calibration: measure this CPU through the kernels that run models here, and write its device file.

What is measured is what the roofline asks for: bandwidth by working set, FLOP/s by rows, what reading the
cache and calling an op cost. Nothing is fitted to a whole model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
import yaml

from twofold.devices.catalog import parse_device, this_cpu_path
from twofold.devices.curves import Curve
from twofold.devices.schema import DeviceFile
from twofold.measure.device_document import Measured, device_document, memory_bytes
from twofold.measure.probe import NARROW, WIDE, Probe, seconds_of

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
    *, quick: bool = False, progress: Progress | None = None, path: Path | None = None
) -> Calibration:
    """Measure this CPU with torch's current number of threads and write its device file to `path` (default:
    where `this-cpu` is looked for). quick: fewer sizes and repeats, under 15 seconds instead of a minute.

    progress(what, done, total) is called before each part. OSError where the file cannot be written.
    """
    m = Measured()
    busy = _busy()
    parts: list[tuple[str, Callable[[], None]]] = [
        ("calls", lambda: _measure_calls(m, quick)),
        ("products", lambda: _measure_matmul(m, quick)),
        ("bandwidth", lambda: _measure_read(m, quick)),
        ("attention", lambda: _measure_attention(m, quick)),
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
    device = parse_device(text, str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return Calibration(m, device, target, busy)


def _measure_calls(m: Measured, quick: bool) -> None:
    """What calling ops costs: products of a model so narrow that there is nothing to compute; the other
    ops at one token between products that sweep the inner caches, as in a real model."""
    narrow, wide = Probe(NARROW, 64), Probe(WIDE, 64)
    budget = 0.5 if quick else 2.0
    totals = narrow.by_kind(1, 8, budget)
    ops = sum(total.seconds for total in totals.values())
    m.step = max(0.0, narrow.step_seconds(1, 8, budget) - ops)
    linear = totals["linear"]
    totals = {**wide.by_kind(1, 8, budget), "linear": linear}
    m.op = {kind: total.seconds / total.calls for kind, total in totals.items()}


def _measure_read(m: Measured, quick: bool) -> None:
    """Bytes/s of products with one row, by the bytes of all weights that are gone through in turn."""
    largest = min(1 << 30, memory_bytes() // 8)
    sizes = [1 << b for b in range(16, 31, 2 if quick else 1) if 1 << b <= largest]
    pool = torch.full((sizes[-1] // 4,), 0.5)
    call = m.op["linear"]
    for size in sizes:
        rows = min(STREAM_ROWS, size // (4 * STREAM_COLS))
        matrices = pool[: size // 4].view(-1, rows, STREAM_COLS)
        x = torch.full((1, STREAM_COLS), 0.5)

        def run(matrices: torch.Tensor = matrices, x: torch.Tensor = x) -> None:
            for matrix in matrices:
                F.linear(x, matrix)

        seconds = seconds_of(run, 0.15 if quick else 0.5)
        m.read.append((float(size), size / _net(seconds, len(matrices) * call)))
    m.exposed = _exposed(m, pool)
    source = pool[: min(pool.numel() // 2, 1 << 26)]
    target = torch.empty_like(source)
    m.copy = 2 * 4 * source.numel() / seconds_of(lambda: target.copy_(source), 0.2)


def _exposed(m: Measured, pool: torch.Tensor) -> float:
    """How much of the shorter of computing and streaming the longer does not hide: products of a few rows
    whose weights do not fit any cache, against the rates of both apart."""
    matrices = pool.view(-1, STREAM_ROWS, STREAM_COLS)
    excess = hidden = 0.0
    for rows in (8, 16, 32):
        x = torch.full((rows, STREAM_COLS), 0.5)
        start = perf_counter()
        for matrix in matrices:
            F.linear(x, matrix)
        seconds = _net(perf_counter() - start, len(matrices) * m.op["linear"])
        compute = 2.0 * rows * pool.numel() / Curve.rate(m.matmul["fp32"])(rows)
        stream = 4.0 * pool.numel() / m.read[-1][1]
        excess += seconds - max(compute, stream)
        hidden += min(compute, stream)
    return min(1.0, max(0.0, excess / hidden))


def _measure_matmul(m: Measured, quick: bool) -> None:
    """FLOP/s by rows with cached weights."""
    call = m.op["linear"]
    points = []
    weights = [torch.full((cols, depth), 0.01) for depth, cols in SHAPES]
    for rows in ROWS:
        flop = seconds = 0.0
        for weight in weights:
            x = torch.full((rows, weight.shape[1]), 0.5)
            taken = seconds_of(partial(F.linear, x, weight), 0.03 if quick else 0.2)
            seconds += _net(taken, call)
            flop += 2.0 * rows * weight.numel()
        points.append((float(rows), flop / seconds))
    m.matmul["fp32"] = points


def _measure_attention(m: Measured, quick: bool) -> None:
    """Elementwise ops and attention of a model as wide as a small real one."""
    keys = 1024 if quick else 2048
    probe = Probe(WIDE, keys)
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
