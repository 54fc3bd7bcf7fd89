"""A comparison in one table."""

from __future__ import annotations

import pytest
from tests.report.test_tradeoff import FAST, SMALL, compared, made, predicted

from twofold.report import table
from twofold.report.comparison import Row
from twofold.report.comparison_grids import all_grids, speedup_error
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


def test_what_was_measured_in_turn_is_held_against_its_own_baseline() -> None:
    """The machine was half as fast when `small` was measured as when the baseline was."""
    row = foretold(SMALL, 88.0).model_copy(update={"beside": made("baseline", 50.0, 100e6, 0.0)})
    told = compared(row, FAST)
    told = told.model_copy(update={"baseline": foretold(told.baseline, 50.0)})
    base, small, fast = told.tradeoffs
    assert (base.tokens_per_s, small.tokens_per_s, fast.tokens_per_s) == (1.0, 1.6, 1.5)
    assert (small.pays_in, small.bytes) == (["speed", "bytes"], 0.6)
    grid = glance_grid(told)
    assert grid is not None
    assert grid.lines[1].cells[1:4] == ("1.60×", "1.76×", "0.60×")
    assert "measured in turn" in grid.notes[0]
    alone = glance_grid(compared(FAST))
    assert alone is not None
    assert "measured in turn" not in alone.notes[0]
    assert speedup_error(row, told.baseline) == pytest.approx(0.1)
    (note,) = [note for grid in all_grids(told) for note in grid.notes if "median absolute" in note]
    assert note.endswith("speed over the baseline's 10 %")
