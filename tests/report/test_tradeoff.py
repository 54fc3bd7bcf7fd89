"""What a row gives for what: ratios to the baseline, the front, where it would pay, and how that is drawn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.report.examples import comparison, result

from twofold.report import text_plot, tradeoff_plots
from twofold.report.comparison import Comparison, Row
from twofold.report.comparison_grids import all_grids
from twofold.report.schema import Figure, Memory, Quality, Result
from twofold.report.text_plot import Axis, Mark
from twofold.report.tradeoff import Contender, Trial, tradeoffs
from twofold.report.tradeoff_grids import pays_grid, tradeoff_grid
from twofold.report.tradeoff_plots import BYTES, SPEED, Spot


def made(label: str, speed: float, cache: float, kl: float | None, **changes: Any) -> Result:
    """A run of `speed` token/s whose memory is 100 MB of weights and `cache` bytes."""
    quality = None
    if kl is not None:
        quality = Quality(tokens=64, kl_divergence=Figure.exact(kl, "nat"))
    missing = {"energy_per_token": "no meter"} | ({} if quality else {"quality": "switched off"})
    return result(
        label,
        tokens_per_s=Figure.exact(speed, "token/s"),
        memory=Memory.of(weights=100e6, cache=cache),
        quality=quality,
        missing=missing,
        **changes,
    )


def compared(*rows: Row) -> Comparison:
    base = made("baseline", 100.0, 100e6, 0.0)
    return Comparison(
        title="t",
        model="m",
        device="cpu",
        workload=base.workload,
        baseline=Row(label="baseline", measured=base, predicted_elsewhere={"gpu": predicted(50.0)}),
        rows=list(rows),
    )


def predicted(speed: float, **changes: Any) -> Result:
    return result(kind="predict", device="gpu", tokens_per_s=Figure.exact(speed, "token/s"), **changes)


SMALL = Row(
    label="small", measured=made("small", 80.0, 20e6, 0.1), predicted_elsewhere={"gpu": predicted(75.0)}
)
FAST = Row(label="fast", measured=made("fast", 150.0, 100e6, 0.0))
POOR = Row(label="poor", measured=made("poor", 79.0, 30e6, 0.2), predicted_elsewhere={"gpu": predicted(40.0)})


def test_ratios_and_the_front() -> None:
    base, small, fast, poor = compared(SMALL, FAST, POOR).tradeoffs
    assert (small.tokens_per_s, small.cache, small.weights, small.bytes) == (0.8, 0.2, 1.0, 0.6)
    assert (base.on_front, small.on_front, fast.on_front, poor.on_front) == (False, True, True, False)
    assert (small.pays_in, small.loses_in) == (["bytes"], ["speed"])
    assert (fast.pays_in, fast.loses_in, fast.pays_at) == (["speed"], [], {})
    assert base.pays_at == {}


def test_equal_rows_are_all_on_the_front_and_rounding_is_no_loss() -> None:
    base = made("baseline", 100.0, 1e6, 0.0)
    twin = made("twin", 100.0, 1e6, 1e-9)
    assert [row.on_front for row in tradeoffs(base, [Contender("twin", twin)], "baseline")] == [True, True]


def test_without_quality_there_is_no_front() -> None:
    (base, row) = tradeoffs(made("b", 1.0, 1e6, None), [Contender("r", made("r", 2.0, 1e6, None))], "b")
    assert base.on_front is None
    assert row.on_front is None
    assert row.tokens_per_s == 2.0


def test_what_a_few_seconds_cannot_tell_counts_as_equal() -> None:
    base = made("baseline", 100.0, 100e6, 0.0)
    (_, row) = tradeoffs(base, [Contender("r", made("r", 98.0, 98e6, 0.0))], "baseline")
    assert (row.pays_in, row.loses_in) == ([], [])
    assert row.pays_at == {"speed": None, "bytes": None}


def trial(device: str, **figures: Any) -> Trial:
    return Trial(device=device, model="large", load="32 requests", **figures)


def test_the_best_place_is_named_and_one_where_only_the_row_fits_counts() -> None:
    base, row = made("baseline", 100.0, 1e6, 0.0), made("r", 50.0, 1e6, 0.0)
    tried = [trial("a", tokens_per_s=1.2), trial("b", tokens_per_s=1.5), trial("c", refused="no room")]
    (_, found) = tradeoffs(base, [Contender("r", row, trials=[*tried, trial("d", alone=True)])], "baseline")
    assert found.pays_at["speed"] == tried[1]
    (_, found) = tradeoffs(base, [Contender("r", row, trials=[tried[2], trial("d", alone=True)])], "baseline")
    assert found.pays_at["speed"] == trial("d", alone=True)
    (_, found) = tradeoffs(base, [Contender("r", row, trials=[trial("a", tokens_per_s=1.02)])], "baseline")
    assert found.pays_at["speed"] is None


def test_a_trial_is_per_instance_and_says_who_does_not_fit() -> None:
    two = predicted(90.0, derived={"instances": 2})
    assert Trial.between(two, predicted(50.0), "gpu", "m", "load").tokens_per_s == pytest.approx(0.9)
    assert Trial.between(two, "it does not fit", "gpu", "m", "load").alone
    assert Trial.between("cut", predicted(50.0), "gpu", "m", "load").refused == "cut"


def test_the_table_says_where_a_row_would_pay() -> None:
    tried = [trial("large-gpu", tokens_per_s=0.9, bytes=0.5), trial("full-gpu", alone=True)]
    grid = pays_grid(compared(SMALL, FAST, POOR.model_copy(update={"trials": tried})))
    assert grid is not None
    assert [line.cells[0] for line in grid.lines] == ["small", "poor"]
    assert grid.lines[0].cells[1:] == ("slower, smaller", "0.80×", "0.60×", "1.50× token/s on gpu (a)")
    assert grid.lines[1].cells[-1] == "on full-gpu (b), where the baseline does not fit"
    assert "(b) large, 32 requests" in grid.notes
    nowhere = pays_grid(compared(POOR))
    assert nowhere is not None
    assert nowhere.lines[0].cells[-1] == "nowhere among those tried"


def test_a_comparison_that_only_gains_needs_no_such_table() -> None:
    assert pays_grid(compared(FAST)) is None
    assert "What does not pay here, and where it would" not in [g.title for g in all_grids(compared(FAST))]


def test_the_table_of_trade_offs_marks_the_front() -> None:
    grid = tradeoff_grid(compared(SMALL, FAST, POOR))
    assert grid is not None
    assert [line.cells[-1] for line in grid.lines] == ["", "●", "●", ""]
    assert [line.cells[1] for line in grid.lines] == ["0", "1", "2", "3"]
    assert grid.lines[1].cells[-2] == "0.80×"


def test_a_row_that_failed_says_so_and_keeps_the_others() -> None:
    shown = all_grids(compared(FAST, Row(label="broken", failed="KeyError: 'x'")))
    assert shown[0].lines[2].span == "failed: KeyError: 'x'"
    assert all(line.cells[0] != "broken" for grid in shown[1:] for line in grid.lines)
    with pytest.raises(ValueError, match="results all the same"):
        Row(label="broken", failed="KeyError", measured=FAST.measured)


def test_json_carries_the_trade_offs_and_is_read_again() -> None:
    found = compared(SMALL.model_copy(update={"trials": [trial("a", tokens_per_s=2.0)]}))
    written = json.loads(found.model_dump_json())
    assert written["tradeoffs"][1]["tokens_per_s"] == 0.8
    assert written["tradeoffs"][1]["pays_at"]["speed"]["device"] == "a"
    assert Comparison.model_validate(written) == found


@pytest.mark.parametrize(
    "found",
    [
        [Spot(1, "one", 0.0, 1.0, True)],
        [Spot(i, f"same place {i}", 0.01, 2.0, False) for i in range(12)],
        [Spot(1, "far", 3.0, 0.02, False), Spot(2, "near", 1e-5, 9.0, True)],
    ],
)
@pytest.mark.parametrize("against", [SPEED, BYTES])
def test_plots_in_corner_cases(found: list[Spot], against: tradeoff_plots.Against) -> None:
    svg = tradeoff_plots.svg(found, against)
    assert all(f">{spot.label}<" in svg for spot in found)


def test_of_many_points_those_off_the_front_carry_numbers() -> None:
    found = [Spot(i, f"row-{i}", 0.001 * i, 1.0 + 0.1 * (i % 5), i < 3) for i in range(1, 31)]
    svg = tradeoff_plots.svg(found, SPEED)
    assert ">row-2<" in svg
    assert ">row-30<" not in svg
    assert ">30<" in svg


def test_the_frontier_takes_only_what_is_better() -> None:
    found = [Spot(1, "a", 0.0, 0.9, False), Spot(2, "b", 0.1, 1.5, True), Spot(3, "c", 0.2, 1.2, False)]
    assert tradeoff_plots.frontier(found, SPEED) == [(0.0, 1.0), (0.1, 1.5)]
    assert tradeoff_plots.frontier(found, BYTES) == [(0.0, 1.0), (0.0, 0.9)]


def test_the_text_plot_shows_every_number_once() -> None:
    shown = tradeoff_plots.text(comparison().tradeoffs)
    assert shown is not None
    first = shown.plain.split("\n\n")[0]
    marks = "".join(line.partition("│")[2] for line in first.splitlines() if "│" in line)
    assert sorted(marks.replace("-", " ").split()) == [str(i) for i in range(1, 9)]
    assert "token/s over the baseline" in first
    assert tradeoff_plots.text([]) is None


def test_marks_that_would_cover_each_other_stand_side_by_side() -> None:
    marks = [Mark(number, 1.0, 1.0, number == 40) for number in range(20, 41)]
    plot = text_plot.scatter(marks, Axis("x", str), Axis("y", str))
    (line,) = [line for line in plot.plain.splitlines() if "40" in line]
    assert sorted(line.partition("│")[2].split()) == [str(n) for n in range(20, 41)]


def test_places_of_the_text_plot_follow_the_values() -> None:
    marks = [Mark(1, 0.0, 0.0, False), Mark(2, 0.001, 1.0, False), Mark(3, 1.0, 2.0, True)]
    lines = text_plot.scatter(marks, Axis("x", str, True), Axis("y", str)).plain.splitlines()
    rows = {n: i for i, line in enumerate(lines) for n in "123" if line.partition("│")[2].strip() == n}
    columns = {n: lines[i].partition("│")[2].index(n) for n, i in rows.items()}
    assert rows["3"] < rows["2"] < rows["1"]
    assert columns["1"] == 0 < columns["2"] < columns["3"]
