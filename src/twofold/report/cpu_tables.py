"""Tables of docs/cpu.md from what benchmarks have stored in docs/data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

Table = tuple[Sequence[str], list[Sequence[object]]]


def beside_llamacpp(path: Path) -> Table:
    """Rows of `benchmarks/cpu_vs_llamacpp.py --json`. ValueError where the file holds something else."""
    heads = [
        "case",
        "Twofold token/s",
        "llama.cpp token/s",
        "ratio",
        "our GB/s",
        "limit GB/s",
        "share",
        "rounds",
    ]
    rows: list[Sequence[object]] = []
    for row in _records(path):
        case = row["case"]
        if row.get("times_one"):
            case += f" ({row['times_one']:.1f} × one)"
        rows.append(
            (
                case,
                f"{row['ours']:,.1f}",
                f"{row['theirs']:,.1f}",
                f"{row['ratio']:.2f} ×",
                f"{row['gb_s']:.1f}",
                f"{row['limit_gb_s']:.1f}",
                f"{row['share_of_limit']:.0%}",
                row["rounds"],
            )
        )
    return heads, rows


def grid_of_loads(path: Path) -> tuple[str, Table]:
    """A sentence on the errors, and the rows, of `benchmarks/cpu_grid.py --table`. ValueError where the file
    holds something else."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "rows" not in found:
        raise ValueError(f"{path}: not a table of benchmarks/cpu_grid.py")
    said, alone, rows = [], [], list[Sequence[object]]()
    for name in ("ttft", "tpot"):
        middle, p90 = _errors(row[name] for row in found["rows"])
        said.append(f"{name.upper()}: median error {middle:.1%}, p90 {p90:.1%}")
        passes = zip(*(row["alone"][name] for row in found["rows"]), strict=True)
        medians, p90s = zip(*map(_errors, passes), strict=True)
        alone.append(
            f"{name.upper()} {min(medians):.0%} to {max(medians):.0%} in the median, {min(p90s):.0%} to "
            f"{max(p90s):.0%} at p90"
        )
    for row in found["rows"]:
        cells: list[object] = [f"`{row['technique']}`", row["batch"], row["prompt"]]
        for name in ("ttft", "tpot"):
            measured, predicted = row[name]
            cells += [f"{measured * 1e3:,.1f}", f"{predicted * 1e3:,.1f}", f"{predicted / measured - 1:+.0%}"]
        rows.append(cells)
    heads = ["technique", "requests", "prompt"]
    heads += ["TTFT ms", "predicted", "error", "TPOT ms", "predicted", "error"]
    about = (
        f"{len(rows)} rows, {found['model']} on {found['processor']}, {found['passes']} passes. "
        f"{said[0]}; {said[1]}. One pass alone, a calibration against the runs after it: {'; '.join(alone)}"
    )
    return about, (heads, rows)


def _errors(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Median and 90th percentile of the absolute error over (measured, predicted)."""
    errors = [abs(predicted / measured - 1) for measured, predicted in pairs]
    return median(errors), quantiles(errors, n=10, method="inclusive")[-1]


def answers(path: Path) -> list[tuple[str, Table]]:
    """Per kernels, a sentence on perplexity and the table of greedy outputs that part, of
    `benchmarks/cpu_quality.py --json`."""
    out: list[tuple[str, Table]] = []
    for found in _records(path):
        p, greedy = found["perplexity"], found["greedy"]
        parted = [row for row in greedy if row["parted"] is not None]
        text = (
            f"`{found['kernels']}`: perplexity {p['native']:.4f}, reference {p['reference']:.4f} "
            f"({p['ratio'] - 1:+.3%}) on {p['tokens']:,} tokens; KL divergence {p['kl_divergence']:.2e} nat, "
            f"same choice {p['top1_agreement']:.1%}; greedy output of {len(greedy)} prompts alike in "
            f"{len(greedy) - len(parted)}"
        )
        heads = ["prompt", "parts after", "of tokens", "gap of the two best logits", "moved by"]
        rows: list[Sequence[object]] = [
            (row["prompt"], row["parted"], row["tokens"], f"{row['gap']:.4f}", f"{row['noise']:.4f}")
            for row in parted
        ]
        out.append((text, (heads, rows)))
    return out


def _records(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{path} holds no list of results")
    return found
