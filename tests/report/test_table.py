"""Tables say what the results say, and fit where they are printed."""

from __future__ import annotations

import re

import pytest
from tests.report.examples import comparison, result

from twofold.report import comparison_grids as grid
from twofold.report import table
from twofold.report.comparison import Comparison, Row
from twofold.report.schema import Figure


@pytest.mark.parametrize("width", [100, 120])
def test_text_fits_and_is_complete(width: int) -> None:
    text = table.to_text(comparison(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    named = ("copyspec", "h100-sxm −15/+15 %")
    for wanted in (*named, "31.2 ms", "2.05×", "269 MB", "12,782", "100 %", "+38.0 %"):
        assert wanted in text, wanted


def test_a_refusal_is_told_once_with_its_reason() -> None:
    text = " ".join(table.to_text(comparison()).split())
    assert text.count("gemfilter + copyspec refused: gemfilter drops prompt tokens") == 1
    assert "phone-soc refuses int-vs-fp(format=nvfp4): no kernel for nvfp4" in text
    assert "no energy per token: this machine has no readable energy counter" in text


def test_error_and_confidence_of_predictions_are_shown() -> None:
    made = comparison()
    shown = grid.predicted_here(made)
    assert shown is not None
    assert shown.lines[0].cells[4] == f"{made.baseline.errors['tpot'] * 100:+.0f} %"
    assert shown.notes[0] == "confidence: calibrated"
    elsewhere = grid.predicted_elsewhere(made)
    assert elsewhere is not None
    assert elsewhere.notes[0] == (
        "confidence and interval of speed: datasheet: a100-80g-sxm, h100-sxm −15/+15 %, rtx-4090, phone-soc"
    )


def test_markdown_is_a_table_of_equal_columns() -> None:
    text = table.to_markdown(comparison())
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1
    assert "| **baseline** | 842 ms |" in text
    assert "speed (vs. base)" in text


def test_markdown_escapes() -> None:
    made = Comparison.single(result("a|b <c>"))
    assert "**a\\|b &lt;c>**" in table.to_markdown(made)


def test_labels_with_brackets_are_not_taken_for_markup() -> None:
    assert "odd[bold]name" in table.to_text(Comparison.single(result("odd[bold]name")))


def test_a_comparison_that_is_only_predicted() -> None:
    slow, fast = (
        result(n, "predict", tokens_per_s=Figure.exact(v, "token/s"))
        for n, v in (("base", 10.0), ("fast", 25.0))
    )
    made = Comparison(
        title="t",
        model="m",
        device="h100-sxm",
        workload=slow.workload,
        baseline=Row(label="base", predicted_here=slow),
        rows=[Row(label="fast", predicted_here=fast)],
    )
    over_base, shown = grid.all_grids(made)
    assert over_base.lines[1].cells[-2:] == ("2.50×", "")
    assert shown.title == "Predicted on h100-sxm"
    assert shown.lines[1].cells[4] == "2.50×"
    assert shown.notes[0] == "confidence: calibrated"


def test_one_result_shows_everything_it_has() -> None:
    made = result(
        tpot=Figure(low=0.03, mid=0.0312, high=0.033, unit="s"),
        counters={"kivi": {"tokens quantised": 4096.0}},
        behaviour={"accepted": {"value": [0.7, 0.5], "source": "paper", "note": "table 2"}},
    )
    text = " ".join(table.to_text(made, 110).split())
    for wanted in (
        "31.2 ms (30.0–33.0)",
        "energy per token unknown: this machine has no",
        "unaccounted 19.0 MB",
        "tokens quantised 4,096",
        "0.700, 0.500 paper: table 2",
        "passkey at 2,048 tokens 60.0 %",
        "linear 3,000 4.96 s 62.0 %",
        "confidence: measured",
    ):
        assert wanted in text, wanted
    assert "| part |" in table.to_markdown(made)
