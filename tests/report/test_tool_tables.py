"""Tables of what benchmarks stored about published tools."""

from __future__ import annotations

import json
from pathlib import Path

from twofold.report.tool_tables import beside_genz


def test_ratios_are_gathered_by_quantity_and_phase(tmp_path: Path) -> None:
    records = [
        {
            "phase": "decode",
            "ours": {"products": ours, "messages": 0.0},
            "genz": {"products": 10.0, "messages": 0.0},
        }
        for ours in (9.0, 12.0)
    ]
    path = tmp_path / "genz.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    heads, rows = beside_genz(path)
    assert rows == [("products", "decode", 2, "0.900", "1.200")]  # what GenZ has none of has no ratio
    assert len(heads) == len(rows[0])
