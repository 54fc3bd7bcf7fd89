"""Derive the efficiencies in `devices/catalog/generations/{ampere,hopper}.yaml` from measured operator times.

Usage: TWOFOLD_DATA=<folder> python benchmarks/derive_efficiency.py

Reads measured/linear-ops-*.csv (times of the four products of a layer by token count and tensor parallelism,
from the Vidur repository) and measured/{matmul,gelu,layernorm,softmax}-a100.csv (from the LLMCompass
repository). Four parameters per generation are searched on every other token count: the share of memory
bandwidth and the seconds that an op costs besides (where memory bounds the product), the share of the peak
matrix rate (where compute does), and how much of the shorter of compute and memory time is not hidden. The
error is printed on the token counts that were not used.
"""

from __future__ import annotations

import csv
import os
import sys
from itertools import product
from pathlib import Path
from statistics import mean, quantiles
from typing import NamedTuple

from twofold.devices.catalog import get_device
from twofold.devices.gemm import tiled_flop
from twofold.devices.schema import DeviceFile

HEAD_DIM = 128
FEW, MANY = 64, 1024
FILES = {
    "ampere": ("a100-80g-sxm", ["linear-ops-a100-llama2-70b.csv", "linear-ops-a100-llama3-8b.csv"]),
    "hopper": ("h100-sxm", ["linear-ops-h100-llama2-7b.csv"]),
}


class Point(NamedTuple):
    """A measured product: [rows, depth] × [depth, cols] in fp16."""

    rows: int
    depth: int
    cols: int
    seconds: float


def read_linear_ops(path: Path) -> list[Point]:
    """The products of a layer in a linear-ops table."""
    points = []
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            tokens, tp = int(row["num_tokens"]), int(row["num_tensor_parallel_workers"])
            hidden, ffn = int(row["n_embd"]), int(row["n_expanded_embd"])
            heads = int(row["n_head"]) + 2 * max(int(row["n_kv_head"]), tp)
            gate_up = (2 if row["use_gated_mlp"] == "True" else 1) * ffn
            shapes = {
                "attn_pre_proj": (hidden, heads * HEAD_DIM // tp),
                "attn_post_proj": (hidden // tp, hidden),
                "mlp_up_proj": (hidden, gate_up // tp),
                "mlp_down_proj": (ffn // tp, hidden),
            }
            points += [Point(tokens, *shape, float(row[f"{op}_ms"]) * 1e-3) for op, shape in shapes.items()]
    return points


def read_matmul(path: Path) -> list[Point]:
    """The rows of a `rows, depth, cols, 0.19ms, …` table."""
    points = []
    for line in path.read_text(encoding="utf-8").splitlines():
        rows, depth, cols, time, *_ = (part.strip() for part in line.split(","))
        points.append(Point(int(rows), int(depth), int(cols), float(time.removesuffix("ms")) * 1e-3))
    return points


def parts(device: DeviceFile, point: Point) -> tuple[float, float]:
    """Seconds of compute and of memory at full efficiency."""
    eff = device.efficiency
    assert eff.split_depth is not None
    flop = tiled_flop(
        point.rows,
        point.depth,
        point.cols,
        units=int(device.units.count.value),
        tiles=eff.tiles,
        split_depth=int(eff.split_depth.value),
    )
    nbytes = 2 * (point.rows * point.depth + point.depth * point.cols + point.rows * point.cols)
    return flop / device.matmul["fp16"].value, nbytes / device.memory.bandwidth.value


class Parameters(NamedTuple):
    """What is searched for; see `twofold.devices.schema.Efficiency`."""

    matmul: float
    memory: float
    exposed: float
    op: float


def errors(device: DeviceFile, points: list[Point], parameters: Parameters) -> list[float]:
    """Relative errors of the roofline with these parameters."""
    matmul, memory, exposed, op = parameters
    found = []
    for point in points:
        compute, traffic = parts(device, point)
        compute, traffic = compute / matmul, traffic / memory
        found.append((max(compute, traffic) + exposed * min(compute, traffic) + op) / point.seconds - 1.0)
    return found


def bands(points: list[Point]) -> list[list[Point]]:
    """The points by few, middling and many rows."""
    few = [p for p in points if p.rows <= FEW]
    many = [p for p in points if p.rows >= MANY]
    return [few, [p for p in points if FEW < p.rows < MANY], many]


def search(device: DeviceFile, points: list[Point]) -> Parameters:
    """The parameters with the least error over few, middling and many rows, each band counting alike.

    memory and op come from few rows, where memory bounds the product; matmul from many, where compute does.
    """
    shares = [0.60 + 0.01 * i for i in range(40)]
    overheads = [0.5e-6 * i for i in range(1, 17)]
    few, _, many = bands(points)

    def loss(some: list[Point], *parameters: float) -> float:
        return mean(abs(e) for e in errors(device, some, Parameters(*parameters)))

    found = []
    for exposed in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        memory, op = min(product(shares, overheads), key=lambda x: loss(few, 0.8, x[0], exposed, x[1]))
        matmul = min(shares, key=lambda share: loss(many, share, memory, exposed, op))
        found.append(Parameters(matmul, memory, exposed, op))
    return min(found, key=lambda p: mean(loss(band, *p) for band in bands(points)))


def show(label: str, found: list[float]) -> None:
    """One line of error statistics."""
    sizes = [abs(e) for e in found]
    p90 = quantiles(sizes, n=10)[-1]
    print(f"  {label:28} n={len(found):5}  MAPE {mean(sizes):6.1%}  bias {mean(found):+6.1%}  p90 {p90:6.1%}")


def describe(parameters: Parameters) -> str:
    """The parameters in words."""
    matmul, memory, exposed, op = parameters
    return f"matmul {matmul:.2f}, memory {memory:.2f}, exposed {exposed:.1f}, op {op * 1e6:.1f} us"


def elementwise(folder: Path, bandwidth: float) -> None:
    """Share of memory bandwidth that large elementwise operators reach (fp16: two bytes read, two written
    per element)."""
    for name in ("gelu", "layernorm", "softmax"):
        best = 0.0
        for line in (folder / f"{name}-a100.csv").read_text(encoding="utf-8").splitlines():
            best = max(best, float(line.split(",")[-1]) * 1e9 * 4 / bandwidth)
        print(f"  {name}: at most {best:.2f} of the memory bandwidth")


def main() -> None:
    """Print the parameters and their errors."""
    data = os.environ.get("TWOFOLD_DATA")
    if not data:
        sys.exit("set TWOFOLD_DATA to the folder that holds measured/")
    folder = Path(data) / "measured"
    for generation, (name, files) in FILES.items():
        device = get_device(name)
        points = [point for file in files for point in read_linear_ops(folder / file)]
        counts = sorted({point.rows for point in points})
        used = set(counts[::2])
        train = [p for p in points if p.rows in used]
        test = [p for p in points if p.rows not in used]
        found = search(device, train[:: max(1, len(train) // 2000)])
        print(f"{generation} ({name}): {describe(found)}")
        show("fitted token counts", errors(device, train, found))
        show("other token counts", errors(device, test, found))
        for band in bands(test):
            show(f"  tokens {band[-1].rows}-{band[0].rows}", errors(device, band, found))
        eff = device.efficiency
        written = Parameters(eff.matmul.value, eff.memory.value, eff.exposed.value, eff.op.value)
        print(f"  in the catalogue: {describe(written)}")
        if generation == "ampere":
            show("matmul-a100 (not fitted)", errors(device, read_matmul(folder / "matmul-a100.csv"), found))
            elementwise(folder, device.memory.bandwidth.value)


if __name__ == "__main__":
    main()
