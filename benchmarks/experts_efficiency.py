"""Layers of experts predicted against the operator tables of the package aiconfigurator-core, GPU by GPU.

Usage: python benchmarks/experts_efficiency.py [--points N] [--fit]

The package (pip install aiconfigurator-core, pyarrow beside it; Apache-2.0) holds kernel times of mixtures of
experts under vLLM, SGLang and TensorRT-LLM, with tokens spread evenly over the experts. The script prints the
error of the catalogue's devices by GPU, software, precision and number of tokens. --fit prints, for each GPU,
the median of what small layers take beyond the prediction: `dispatch` of the generations comes from one GPU
of each (see the sources in their files), the others are predicted from their datasheets alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any, NamedTuple

import twofold.models.quantised  # noqa: F401 - registers the formats of packed weights
from twofold.devices.registry import make_device
from twofold.devices.roofline import Roofline
from twofold.ops.base import Precision
from twofold.ops.linear import ExpertMLP

DEVICES = {
    "a100_sxm": "a100-80g-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "b200_sxm": "b200",
    "gb200": "gb200",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
FORMATS: dict[str, tuple[Precision, str, float]] = {
    "bfloat16": ("bf16", "bf16", 2.0),
    "fp8": ("fp8", "fp8", 1.0),
    "fp8_block": ("fp8", "fp8", 1.0),
    "nvfp4": ("fp4", "nvfp4", 4.5 / 8),
    "w4a16_mxfp4": ("bf16", "mxfp4", 4.25 / 8),
}
"""The package's precisions as (precision of the products, stored format, bytes of a weight)."""
EVEN, GATED = "balanced", 3
WIDENED = "w4a16_mxfp4"
"""Left out of the fit: its kernels differ the most from software to software."""
BANDS = (8, 128, 1024, 1 << 30)
"""Upper ends of the ranges of tokens that errors are printed by."""
SMALL = 60e-6
"""Seconds of layers in which the fixed part counts."""
FEW = 8
"""Tokens up to which it is fitted."""


class Point(NamedTuple):
    """One measured layer: its software and precision, tokens, the op, and seconds."""

    software: str
    precision: str
    tokens: int
    op: ExpertMLP
    seconds: float


def points(root: Path, gpu: str, most: int) -> Iterator[Point]:
    """`most` layers of each software and precision, drawn by a fixed seed, of the largest table."""
    import pyarrow.parquet as parquet

    for software in ("vllm", "trtllm", "sglang"):
        found = sorted((root / gpu / "moe" / software).glob("*/moe_perf.parquet"), key=_version)
        tables = [parquet.read_table(path).to_pylist() for path in found]
        rows = [r for r in max(tables, key=len, default=[]) if _known(r)]
        for name in FORMATS:
            some = sorted((r for r in rows if r["moe_dtype"] == name), key=_order)
            for row in Random(0).sample(some, min(most, len(some))):
                yield Point(software, name, row["num_tokens"], _op(row), row["latency"] * 1e-3)


def _version(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.parent.name)]


def _known(row: dict[str, Any]) -> bool:
    gated = "nongated" not in row["kernel_source"]
    return gated and row["distribution"] == EVEN and max(row["moe_tp_size"], row["moe_ep_size"]) <= 8


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(value for _, value in sorted(row.items()))


def _op(row: dict[str, Any]) -> ExpertMLP:
    """The share of one device."""
    precision, stored, nbytes = FORMATS[row["moe_dtype"]]
    pairs = row["num_tokens"] * row["topk"] / row["moe_ep_size"]
    touched = min(row["num_experts"] / row["moe_ep_size"], max(1.0, pairs))
    hidden, ffn = row["hidden_size"], row["inter_size"] // row["moe_tp_size"]
    expert = int(GATED * hidden * ffn * nbytes)
    return ExpertMLP(max(1, round(pairs)), touched, hidden, ffn, GATED, stored, expert, precision, 2)


def show(gpu: str, found: list[Point], *, fit: bool) -> None:
    """Errors of one GPU; the fixed part that its small layers ask for."""
    device = make_device(DEVICES[gpu])
    assert isinstance(device, Roofline)
    ratios: dict[tuple[str, str, int], list[float]] = {}
    beyond = []
    for point in found:
        predicted = device.charge(point.op, point.op.cost()).seconds
        band = next(end for end in BANDS if point.tokens <= end)
        ratios.setdefault((point.software, point.precision, band), []).append(predicted / point.seconds)
        if point.tokens <= FEW and predicted < SMALL and point.precision != WIDENED:
            beyond.append(point.seconds - predicted + device.products.dispatch)
    print(f"{device.name} ({device.generation})")
    for (software, precision, band), some in sorted(ratios.items()):
        name = f"{software} {precision} " + (f"to {band} tokens" if band < BANDS[-1] else "more")
        error = mean(abs(ratio - 1.0) for ratio in some)
        print(f"  {name:36} n={len(some):4}  MAPE {error:6.1%}  median {median(some):.2f}")
    if fit and beyond:
        print(f"  dispatch {median(beyond) * 1e6:.1f} us (median of {len(beyond)})")


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=250, help="layers per GPU, software and precision")
    parser.add_argument("--fit", action="store_true", help="print the fixed part that fits each GPU")
    asked = parser.parse_args()
    package = find_spec("aiconfigurator_core")
    if package is None or not package.submodule_search_locations:
        sys.exit("install aiconfigurator-core (and pyarrow) to run this comparison")
    root = Path(package.submodule_search_locations[0]) / "systems" / "data"
    for gpu in DEVICES:
        show(gpu, list(points(root, gpu, asked.points)), fit=asked.fit)


if __name__ == "__main__":
    main()
