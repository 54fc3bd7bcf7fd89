"""The page and the picture of the ledger."""

from __future__ import annotations

import re
from dataclasses import replace

from twofold.claims.ledger import LedgerRow
from twofold.claims.page import AS_ABOVE, summary, to_page
from twofold.claims.picture import claimed_against_ours

ROW = LedgerRow(
    system="kivi",
    kind="technique",
    claimed=(2.0, 3.0),
    ours=(2.5, 2.6),
    ratio=1.0,
    verdict="reproduced",
    why="fewer bytes",
    source="arXiv:2402.02750",
    figure="speed",
    unit="×",
    how="predicted",
)
OFF = replace(ROW, figure="memory | peak", ours=(1.2, 1.2), ratio=0.6, verdict="direction")
NONE = replace(ROW, system="had", ours=None, ratio=None, verdict="not comparable", why="no weights", how="")


def test_the_summary_counts_by_system_and_in_all() -> None:
    lines = summary([ROW, NONE, OFF]).splitlines()  # rows of a system need not follow each other
    assert lines[2:] == [
        "| [kivi](#kivi) | technique | 2 | 1 | 1 |  |  | 1.00 | 0.60 |",
        "| [had](#had) | technique | 1 |  |  |  | 1 |  |  |",
        "| **all** |  | **3** | **1** | **1** |  | **1** |  |  |",
    ]


def test_every_system_has_a_section_that_says_a_reason_once() -> None:
    page = to_page([ROW, OFF, NONE])
    _, kivi, had = page.split("### ")
    assert kivi.startswith("kivi\n")
    assert "| speed | 2.00× to 3.00× | 2.50× to 2.60× | 1.00 | reproduced | fewer bytes (predicted) |" in kivi
    assert f"| memory \\| peak | 2.00× to 3.00× | 1.20× | 0.60 | direction | {AS_ABOVE} |" in kivi
    assert kivi.rstrip().endswith("Sources: arXiv:2402.02750.")
    assert "| speed | 2.00× to 3.00× | – | – | not comparable | no weights |" in had


def test_a_reason_with_another_setting_keeps_the_setting() -> None:
    assert f"| {AS_ABOVE} (counted) |" in to_page([ROW, replace(OFF, how="counted")])


def test_the_picture_has_a_named_point_for_every_row_that_can_be_compared() -> None:
    negative = replace(ROW, claimed=(-2.0, -2.0), ratio=0.9, figure="a loss < 3")
    drawn = claimed_against_ours([ROW, OFF, NONE, negative, replace(NONE, ratio=0.0)])
    assert drawn.startswith("<svg")
    assert re.findall(r"<title>(.*?)</title>", drawn) == [
        "kivi: speed (1.00)",
        "kivi: a loss &lt; 3 (0.90)",
        "kivi: memory | peak (0.60)",
    ]
    assert "2 of 3 reproduced" in drawn
