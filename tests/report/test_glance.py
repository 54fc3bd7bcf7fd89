"""A comparison in one table."""

from __future__ import annotations

from tests.report.test_tradeoff import FAST, SMALL, compared, predicted

from twofold.report import table
from twofold.report.comparison import Row
from twofold.report.glance import glance_grid


def foretold(row: Row, speed: float) -> Row:
    return row.model_copy(update={"predicted_here": predicted(speed)})


def test_the_baseline_in_units_the_others_as_ratios() -> None:
    told = compared(foretold(SMALL, 100.0), FAST, Row(label="no", refused="it cannot"))
    grid = glance_grid(told.model_copy(update={"baseline": foretold(told.baseline, 80.0)}))
    assert grid is not None
    assert [line.cells for line in grid.lines] == [
        ("baseline", "100 token/s", "80.0 token/s", "200 MB", "0", "50.0 token/s"),
        ("small", "0.80×", "1.25×", "0.60×", "0.100", "1.50×"),
        ("fast", "1.50×", "–", "1.00×", "0", "–"),
    ]
    assert grid.notes[-1] == "without results: no"


def test_a_device_that_refuses_is_named() -> None:
    row = Row(label="small", measured=SMALL.measured, refused_elsewhere={"gpu": "too small"})
    grid = glance_grid(compared(row))
    assert grid is not None
    assert grid.lines[1].cells[-1] == "refused"


def test_it_is_the_last_that_a_terminal_shows() -> None:
    text = table.to_text(compared(SMALL))
    assert text.index("Measured on") < text.index("At a glance")


def test_nothing_beside_the_baseline_is_no_table() -> None:
    assert glance_grid(compared()) is None
