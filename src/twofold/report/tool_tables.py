"""Tables of docs/tools.md from what benchmarks have stored in docs/data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from twofold.report.cpu_tables import Table


def beside_genz(path: Path) -> Table:
    """The agreement with GenZ by phase and quantity, of `benchmarks/requirements_vs_genz.py --save`: how many
    cases, and the least and the largest ratio of our figure to GenZ's."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for record in json.loads(path.read_text(encoding="utf-8")):
        for quantity, theirs in record["genz"].items():
            if theirs:
                found = ratios.setdefault((quantity, record["phase"]), [])
                found.append(record["ours"][quantity] / theirs)
    rows: list[Sequence[object]] = [
        (quantity, phase, len(found), f"{min(found):.3f}", f"{max(found):.3f}")
        for (quantity, phase), found in ratios.items()
    ]
    return ["quantity", "phase", "cases", "ours / GenZ, least", "largest"], rows
