"""Matrix products predicted against the operator tables of the package aiconfigurator-core, GPU by GPU.

Usage: python benchmarks/product_efficiency.py [--export DIR] [--points N]

The package (pip install aiconfigurator-core, pyarrow beside it; Apache-2.0) holds kernel times of products
under vLLM, SGLang and TensorRT-LLM on many GPUs, in bf16, FP8, INT8 and with packed weights. The script
prints the error of the catalogue's devices by GPU and precision: parameters of a generation come from one of
its GPUs (see the sources in its file), the others are predicted from their datasheets alone. --export writes
tables `products-<device>.csv` that `twofold fit --data DIR` reads.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import median

from twofold.devices.catalog import device_names, get_device
from twofold.fit.fit import predict, statistics
from twofold.fit.points import Point
from twofold.measured.operators import COLUMNS
from twofold.measured.ops import product_ops

DEVICES = {
    "a100_sxm": "a100-80g-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
FORMATS = {
    "bfloat16": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "sq": ("int8", "int8"),
    "int8_wo": ("bf16", "int8-channel"),
    "int4_wo": ("bf16", "int4-g128-zero"),
    "nvfp4": ("fp4", "nvfp4"),
}
"""The package's precisions as (precision of the product, stored format); block-scaled FP8 is left out."""
LEAST_DEPTH, LEAST_COLS = 512, 256
"""Smaller products do not occur in language models."""
MANY_ROWS = 256
"""Rows from which on the units, not the memory, take the time."""
EAGER, LEAST_SECONDS = ("sq", "int8_wo", "int4_wo"), 100e-6
"""Precisions that were timed through calls from the host, and the time from which on that does not matter."""


def tables(root: Path, gpu: str) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """(software, rows) of each table of a GPU: of the newest version that holds one."""
    import pyarrow.parquet as parquet

    for software in ("vllm", "trtllm", "sglang"):
        found = sorted((root / gpu / "gemm" / software).glob("*/gemm_perf.parquet"), key=_version)
        for path in found[-1:]:
            yield software, parquet.read_table(path).to_pylist()


def _version(path: Path) -> list[int]:
    """The numbers of the version that the table's folder is named after."""
    return [int(number) for number in re.findall(r"\d+", path.parent.name)]


def sample(root: Path, gpu: str, points: int) -> list[dict[str, object]]:
    """Rows as `products-` tables hold them: `points` of each software and precision, drawn by a fixed
    seed."""
    chosen = []
    for software, rows in tables(root, gpu):
        for name, (precision, stored) in FORMATS.items():
            some = [
                r
                for r in rows
                if r["gemm_dtype"] == name
                and r["k"] >= LEAST_DEPTH  # type: ignore[operator]
                and r["n"] >= LEAST_COLS  # type: ignore[operator]
                and (name not in EAGER or float(r["latency"]) * 1e-3 >= LEAST_SECONDS)  # type: ignore[arg-type]
            ]
            some.sort(key=lambda r: (r["m"], r["k"], r["n"]))  # type: ignore[return-value]
            for row in Random(0).sample(some, min(points, len(some))):
                values = (row["m"], row["k"], row["n"], precision, stored)
                seconds = float(row["latency"]) * 1e-3  # type: ignore[arg-type]
                chosen.append(dict(zip(COLUMNS, (*values, f"{seconds:.6g}", software), strict=True)))
    return chosen


def write(folder: Path, device: str, rows: list[dict[str, object]]) -> Path:
    """The table of a device in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"products-{device}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def show(path: Path) -> None:
    """Errors of one table by stored format and software, and of bf16 by the number of rows. Where there are
    many rows, the median of predicted over measured tells how a software's kernels differ (see `kernels` of
    the serving profiles)."""
    points = [Point(path.name, timed, False) for timed in product_ops(path)]
    found: dict[str, list[float]] = {}
    for point, seconds in zip(points, predict(points), strict=True):
        error = seconds / point.timed.seconds - 1.0
        stored, software = point.timed.case.split()[-2:]
        keys = [f"{stored} {software}", stored]
        if point.timed.rows >= MANY_ROWS:
            keys.append(f"{stored} {software}, rows {MANY_ROWS}-")
        if stored == "bf16":
            rows = point.timed.rows
            keys.append("bf16, rows " + ("1-64" if rows <= 64 else "65-1024" if rows <= 1024 else "1025-"))
        for key in keys:
            found.setdefault(key, []).append(error)
    print(f"{points[0].timed.device} ({get_device(points[0].timed.device).generation})")
    for key, errors in sorted(found.items()):
        e = statistics(errors)
        assert e is not None
        ratio = 1.0 + median(errors)
        print(
            f"  {key:28} n={e.points:5}  MAPE {e.mape:6.1%}  p90 {e.p90:6.1%}  bias {e.bias:+6.1%}"
            f"  median {ratio:.2f}"
        )


def main() -> None:
    """Export the tables, and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--export", type=Path, default=Path("products"), help="folder for the tables")
    parser.add_argument("--points", type=int, default=1500, help="points per GPU, software and precision")
    asked = parser.parse_args()
    found = find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        sys.exit("install aiconfigurator-core (and pyarrow) to run this comparison")
    root = Path(found.submodule_search_locations[0]) / "systems" / "data"
    for gpu, device in DEVICES.items():
        if (root / gpu).is_dir() and device in device_names():
            show(write(asked.export, device, sample(root, gpu, asked.points)))


if __name__ == "__main__":
    main()
