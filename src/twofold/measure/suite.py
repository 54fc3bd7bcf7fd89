"""The microbenchmarks of this processor that `calibrate` runs beside what predictions need: bandwidth by
working set and threads, latency of each memory level, FLOP/s by precision and shape, what starting work
costs."""

from __future__ import annotations

from collections.abc import Iterator

from twofold.devices.cpu_device import CpuDevice
from twofold.devices.microbench import Microbenchmarks, Reading
from twofold.kernels.cpu import native, why_missing
from twofold.measure.caches import cache_levels
from twofold.measure.latency import latencies, level_sizes
from twofold.measure.launch import launch_costs
from twofold.measure.products import Products
from twofold.measure.stream import ARRAYS, stream

SHAPES = ((576, 1536), (1024, 4096), (4096, 4096))
"""(in, out) of the products."""
ROWS = (1, 16, 256)
LARGEST, QUICK_LARGEST = 512 << 20, 64 << 20
"""Bytes of the largest working set."""


def run_suite(device: CpuDevice, *, source: str, quick: bool = False) -> Microbenchmarks:
    """Measure this processor with the threads of `device`. Without native kernels nothing can be measured,
    and the reason is kept in place of the readings. source: key of the source that a device file gives for
    it."""
    if native() is None or device.context is None:
        reason = why_missing() or "reference kernels were asked for: the microbenchmarks are native"
        return Microbenchmarks(source=source, readings=[], missing={"all": reason})
    team = device.context.stream
    return Microbenchmarks(
        source=source,
        readings=[
            *_bandwidth(device.threads, quick),
            *_latency(quick),
            *_flops(device, quick),
            *(
                Reading("launch", what, seconds, "s")
                for what, seconds in launch_costs(team, 20 if quick else 200)
            ),
        ],
        missing={} if cache_levels() else {"cache levels": "the system does not tell the caches' sizes"},
    )


def _bandwidth(threads: int, quick: bool) -> Iterator[Reading]:
    """Copy and triad by working set (of all arrays together), on one thread and on more. Every core has the
    inner caches for itself, so that their working sets grow with the threads; the last one is shared."""
    caches = cache_levels()
    counts = {1, threads} | (set() if quick else {1 << bit for bit in range(threads.bit_length())})
    inner = {f"L{cache.level}" for cache in caches[:-1]}
    for level, size in level_sizes(caches, QUICK_LARGEST if quick else LARGEST):
        for count in sorted(counts):
            for result in stream(
                max(64, size * (count if level in inner else 1) // len(ARRAYS)),
                threads=count,
                repeats=3 if quick else 5,
                ways=("abstract",) if level in inner else ("abstract", "streamed"),
                kernels=("copy", "triad"),
            ):
                past = ", past the caches" if result.way == "streamed" else ""
                plural = "" if count == 1 else "s"
                total = size_text(len(ARRAYS) * result.array_bytes)
                case = f"{level}, {total}, {count} thread{plural}{past}"
                yield Reading(result.kernel, case, result.best_rate, "B/s")


def _latency(quick: bool) -> Iterator[Reading]:
    levels = level_sizes(cache_levels(), QUICK_LARGEST if quick else LARGEST)
    sizes = [size for _, size in levels]
    for (level, size), found in zip(levels, latencies(sizes, 1 << (17 if quick else 19)), strict=True):
        yield Reading("latency", f"{level}, {size_text(size)}", found.seconds, "s")


def _flops(device: CpuDevice, quick: bool) -> Iterator[Reading]:
    budget = 0.02 if quick else 0.2
    for packed in (True, False):
        for depth, cols in SHAPES:
            products = Products(device, cols, depth, 1, packed=packed)
            for rows in ROWS:
                rate = 2.0 * rows * depth * cols / products.seconds(rows, budget)
                yield Reading(
                    "int8 product" if packed else "fp32 product", f"{rows} × {depth} × {cols}", rate, "FLOP/s"
                )


def size_text(nbytes: float) -> str:
    """32 KiB, 1.5 MiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.4g} {unit}"
    return f"{nbytes:.0f} B"


def reading_text(reading: Reading) -> str:
    """The value with a prefix: 12.3 GB/s."""
    from twofold.report import units

    return units.si(reading.value, reading.unit)
