"""Attention times of many GPUs against the catalogue, and the section `attention` of a generation refitted.

Usage: python benchmarks/attention_efficiency.py [--fit] [--points N]

Reads the tables of the package aiconfigurator-core (NVIDIA, Apache-2.0), which must be installed beside
pyarrow: attention of vLLM and TensorRT-LLM kernels by batch, length, heads and head dimension, full window.
The measured operator also writes the new entries to the cache, so `CacheWrite` is added to the prediction.
The working set of the measurement is the operator's own, repeated: caches that fit stay in the last cache.

Parameters are fitted on one GPU of each generation under vLLM in 16 bits, on every other point; all other
GPUs, backends and formats are held out. How far a generation carries to the next is shown with the section
of the one before. With --fit the best sections are searched and printed first, otherwise the catalogue's are
used. Backends whose serving profile has kernels of its own are shown with and without them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from math import log
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import pyarrow.parquet as pq
from operator_tables import data_folder, line, newest, search, show

from twofold.devices.catalog import get_device
from twofold.devices.efficiency.attention import AttentionEfficiency, AttentionTime
from twofold.devices.efficiency.machine import Machine
from twofold.devices.roofline import Roofline
from twofold.engine.serving_profile import get_serving
from twofold.ops.attention import Attention, CacheWrite, SpanTotals, span_pairs
from twofold.ops.base import Cost

GPUS = {
    "a100_sxm": "a100-80g-sxm",
    "a100_pcie": "a100-80g-pcie",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "gb200": "gb200",
    "l40s": "l40s",
}
FITTED = {"ampere": "a100_sxm", "hopper": "h100_sxm", "ada": "l40s", "blackwell": "b200_sxm"}
BEFORE = {"ada": ("ampere", "a100-80g-sxm"), "blackwell": ("hopper", "h100-sxm")}
BACKENDS = ("vllm", "trtllm", "sglang")
FREE = (
    "matrix",
    "vector",
    "memory",
    "cache",
    "exposed",
    "launch",
    "tiling.item",
    "tiling.pull",
    "tiling.aside",
)
CEILINGS = {"matrix": 1.0, "vector": 1.0, "memory": 0.95, "cache": 1.0, "exposed": 1.0}
"""No kernel was seen to read a memory faster than 0.95 of the datasheet's bandwidth."""


class Point(NamedTuple):
    """A measured operator: `seqs` sequences of `queries` new tokens and `keys` entries."""

    seqs: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    stored_bytes: int
    seconds: float


class Case(NamedTuple):
    """A point made ready to be timed: its op, cost, peak rate, working set, and the cache write."""

    point: Point
    op: Attention
    cost: Cost
    peak: float
    resident: float
    write: float


def read_points(folder: Path, phase: str) -> Iterator[Point]:
    """Full-window points in 16-bit arithmetic of `phase` ("context" or "generation")."""
    for row in pq.read_table(folder / f"{phase}_attention_perf.parquet").to_pylist():
        heads, kv_heads = row["num_heads"], row["num_key_value_heads"]
        odd = heads % kv_heads or row.get("window_size") or "triton" in row["kernel_source"]
        if odd or row["attn_dtype"] != "bfloat16":
            continue
        queries, keys = (row["isl"], row["isl"]) if phase == "context" else (1, row["step"] + 1)
        stored = 2 if row["kv_cache_dtype"] == "bfloat16" else 1
        shape = (heads, kv_heads, row["head_dim"], stored)
        yield Point(row["batch_size"], queries, keys, *shape, row["latency"] * 1e-3)


def prepare(point: Point, device: Roofline) -> Case:
    """`point` as an op on `device`."""
    p = point
    read, pairs = span_pairs(p.queries, p.keys)
    singles = p.seqs if p.queries == 1 else 0
    totals = SpanTotals(
        p.seqs, p.seqs * p.queries, p.seqs * read, p.seqs * pairs, read, singles, singles * read
    )
    entry = 2 * p.kv_heads * p.head_dim
    cache_bytes = totals.keys * entry * p.stored_bytes
    op = Attention(totals, p.heads, p.kv_heads, p.head_dim, p.head_dim, cache_bytes, "bf16", 2)
    cost = op.cost()
    write = CacheWrite(totals.queries, entry, totals.queries * entry * p.stored_bytes, 2)
    peak = device.file.matmul["bf16"].value
    return Case(p, op, cost, peak, cost.bytes_moved, device.charge(write, write.cost()).seconds)


def load(gpu: str, backend: str, count: int) -> tuple[str, dict[str, list[Case]]]:
    """The version of `backend` measured on `gpu`, and up to `count` random points by phase."""
    folder = newest(data_folder() / gpu / "attention" / backend)
    device = Roofline(get_device(GPUS[gpu]))
    cases = {}
    for phase in ("generation", "context"):
        points = sorted(read_points(folder, phase))
        chosen = random.Random(0).sample(points, min(count, len(points)))
        cases[phase] = [prepare(point, device) for point in chosen]
    return folder.name, cases


def ratios(cases: list[Case], timer: AttentionTime) -> list[float]:
    """Predicted over measured seconds."""
    return [(timer.seconds(c.op, c.cost, c.peak, c.resident)[0] + c.write) / c.point.seconds for c in cases]


def refit(section: AttentionEfficiency, machine: Machine, cases: list[Case]) -> AttentionEfficiency:
    """`section` with its free figures fitted to `cases`."""

    def loss(candidate: AttentionEfficiency) -> float:
        return mean(min(1.0, abs(log(r))) for r in ratios(cases, AttentionTime(candidate, machine)))

    return search(section, FREE, loss, CEILINGS)


def tables(cases: dict[str, list[Case]], timer: AttentionTime, head: str) -> None:
    """Prints the errors by phase and format of the cache."""
    for phase, chosen in cases.items():
        for stored in (2, 1):
            part = [c for c in chosen if c.point.stored_bytes == stored]
            if part:
                what = "decode" if phase == "generation" else "prefill"
                print(line(f"{head} {what}, {8 * stored}-bit cache", ratios(part, timer)))


def main() -> None:
    """Refits where asked, then prints the errors of every GPU and backend that the package holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fit", action="store_true", help="search the parameters before comparing")
    parser.add_argument("--points", type=int, default=1500, help="points by GPU, backend and phase")
    options = parser.parse_args()
    sections: dict[str, AttentionEfficiency] = {}
    if options.fit:
        for generation, gpu in FITTED.items():
            file = get_device(GPUS[gpu])
            _, cases = load(gpu, "vllm", options.points)
            used = [c for part in cases.values() for c in part[::2] if c.point.stored_bytes == 2]
            sections[generation] = refit(file.efficiency.attention, Machine.of(file), used)
            print(f"{generation}: {show(sections[generation], FREE)}")
    for gpu, name in GPUS.items():
        file = get_device(name)
        generation = file.generation
        timer = AttentionTime(sections.get(generation, file.efficiency.attention), Machine.of(file))
        for backend in BACKENDS:
            if not (data_folder() / gpu / "attention" / backend).is_dir():
                continue
            version, cases = load(gpu, backend, options.points)
            head = f"{gpu} {backend} {version}"
            fitted = backend == "vllm" and gpu == FITTED.get(generation)
            tables(cases, timer, head + ("" if fitted else " (held out)"))
            kernels = get_serving(backend).kernels_on(generation)
            if kernels.decode != 1.0:
                section = sections.get(generation, file.efficiency.attention)
                tables(cases, AttentionTime(section, Machine.of(file), kernels), f"{head} (own kernels)")
            if fitted and generation in BEFORE:
                before, other = BEFORE[generation]
                carried = sections.get(before, get_device(other).efficiency.attention)
                tables(cases, AttentionTime(carried, Machine.of(file)), f"{head} (as {before})")


if __name__ == "__main__":
    main()
