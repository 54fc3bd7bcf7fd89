"""The accuracy table says the same in the terminal, in Markdown and in the documentation."""

from __future__ import annotations

from pathlib import Path

from twofold.jobs.docs_sections import accuracy as section
from twofold.report.accuracy import Accuracy, AccuracyRow, grid

ROW = AccuracyRow(
    group="serving",
    title="Serving",
    quantity="tpot",
    fitted=False,
    devices=["h100-sxm"],
    labels=["datasheet"],
    n=1234,
    mape=0.123,
    median=0.08,
    p90=0.31,
    bias=-0.04,
    covered=0.91,
    crossed=None,
    worst="a case",
    worst_error=0.9,
)


def test_a_line_per_row_with_its_label() -> None:
    made = grid(Accuracy(rows=[ROW], held_out_coverage={"op": 0.9, "tpot": 0.875}))
    expected = (
        "Serving",
        "TPOT",
        "held out",
        "datasheet",
        "1,234",
        "12.3 %",
        "8.0 %",
        "31.0 %",
        "-4.0 %",
        "91 %",
        "–",
    )
    assert made.lines[0].cells == expected
    assert any("interval: op time 90 %, TPOT 88 %" in note for note in made.notes)


def test_the_documentation_repeats_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "validation.json"
    assert section(path) == ""
    path.write_text(Accuracy(rows=[ROW]).model_dump_json(), encoding="utf-8")
    assert "| Serving | TPOT | held out | datasheet | 1,234 | 12.3 % |" in section(path)
