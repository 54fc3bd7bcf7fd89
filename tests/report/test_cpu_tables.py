"""Stored measurements of the native kernels as tables of the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twofold.jobs.docs_sections import llamacpp, quality
from twofold.report.cpu_tables import grid_of_loads


def test_rows_beside_llamacpp(tmp_path: Path) -> None:
    row = {
        "case": "m 8 x tg64", "ours": 1000.0, "theirs": 250.0, "ratio": 4.0, "share_of_limit": 0.5,
        "gb_s": 25.0, "limit_gb_s": 50.0, "rounds": 7, "their_setting": "flash attention on",
        "times_one": 3.25,
    }  # fmt: skip
    path = tmp_path / "llamacpp.json"
    path.write_text(json.dumps([row]))
    text = llamacpp([path])
    assert text.startswith("`llamacpp`")
    assert "| m 8 x tg64 (3.2 × one) | 1,000.0 | 250.0 | 4.00 × | 25.0 | 50.0 | 50% | 7 |" in text


def test_greedy_outputs_that_part(tmp_path: Path) -> None:
    found = {
        "kernels": "native",
        "perplexity": {
            "tokens": 1000, "reference": 20.0, "native": 20.02, "ratio": 1.001, "kl_divergence": 0.002,
            "top1_agreement": 0.97,
        },
        "greedy": [
            {"prompt": 0, "tokens": 64, "parted": None, "gap": None, "noise": None},
            {"prompt": 1, "tokens": 64, "parted": 10, "gap": 0.05, "noise": 0.07},
        ],
    }  # fmt: skip
    path = tmp_path / "quality.json"
    path.write_text(json.dumps([found]))
    text = quality(path)
    assert "perplexity 20.0200, reference 20.0000 (+0.100%)" in text
    assert "2 prompts alike in 1." in text
    assert "| 1 | 10 | 64 | 0.0500 | 0.0700 |" in text
    assert quality(tmp_path / "none.json") == ""


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="no list of results"):
        quality(path)


def test_the_grid_of_loads_tells_the_errors_of_all_passes_and_of_each(tmp_path: Path) -> None:
    row = {"technique": "kivi", "batch": 4, "prompt": 64}
    higher, lower = ({"ttft": [[1, x], [2, 1]], "tpot": [[0.01, 0.01], [0.01, 0.011]]} for x in (1.2, 0.8))
    rows = [
        {**row, "ttft": [1.0, 1.1], "tpot": [0.01, 0.01], "alone": higher},
        {**row, "ttft": [1.0, 0.7], "tpot": [0.01, 0.02], "alone": lower},
    ]
    path = tmp_path / "grid.json"
    path.write_text(json.dumps({"processor": "p", "model": "m", "passes": 2, "rows": rows}))
    about, (heads, lines) = grid_of_loads(path)
    assert about == (
        "2 rows, m on p, 2 passes. TTFT: median error 20.0%, p90 28.0%; TPOT: median error 50.0%, p90 90.0%. "
        "One pass alone, a calibration against the runs after it: TTFT 20% to 50% in the median, 20% to 50% "
        "at p90; TPOT 0% to 10% in the median, 0% to 10% at p90"
    )
    assert len(lines[0]) == len(heads)
    assert list(lines[0])[:6] == ["`kivi`", 4, 64, "1,000.0", "1,100.0", "+10%"]
