"""`validate`: the table, its JSON, and what is said of data that are not there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold
from tests.validate.test_run import Made

from twofold.report.accuracy import Accuracy


@pytest.fixture(autouse=True)
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of one group of two, and a file that nobody reads."""
    made = (Made("good"), Made("absent"))
    monkeypatch.setattr("twofold.validate.groups.GROUPS", made)
    monkeypatch.setattr("twofold.validate.run.os.cpu_count", lambda: 1)
    monkeypatch.delenv("TWOFOLD_DATA", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("good-1.csv", "good-2.csv", "stranger.csv"):
        (folder / name).write_text("1", encoding="utf-8")
    return folder


def test_the_table_and_what_is_missing(twofold: Twofold, groups: Path) -> None:
    result = twofold("validate", "--data", groups)
    assert result.exit_code == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if "Good" in line)
    assert "10.0 %" in line
    assert "held out" in line
    assert "TPOT" in line
    assert "datasheet" in line
    assert "note: absent: nothing to compare with; it reads absent-*.csv" in result.stderr
    assert "note: no group reads stranger.csv" in result.stderr


def test_json_is_the_documented_record(twofold: Twofold, groups: Path) -> None:
    result = twofold("validate", "--data", groups, "--json")
    report = Accuracy.model_validate(json.loads(result.stdout))
    (row,) = report.rows
    assert (row.group, row.n, row.labels) == ("good", 2, ["datasheet"])
    assert row.mape == pytest.approx(0.1)
    assert report.absent == {"absent": ["absent-*.csv"]}
    assert report.unknown == ["stranger.csv"]


def test_points_and_plots_are_written(twofold: Twofold, groups: Path, tmp_path: Path) -> None:
    points, plots = tmp_path / "points.csv", tmp_path / "plots"
    result = twofold("validate", "--data", groups, "--points", points, "--plots", plots)
    assert result.exit_code == 0, result.stderr
    with points.open(encoding="utf-8") as file:
        assert [round(float(row["error"]), 6) for row in csv.DictReader(file)] == [0.1, 0.1]
    for name in ("measured-predicted", "errors"):
        assert "2 points, mean absolute error 10.0 %" in (plots / f"{name}.svg").read_text(encoding="utf-8")


def test_a_failed_group_fails_the_command(
    twofold: Twofold, groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (Made("good"), Made("good", error=ValueError("no column ms")))
    made[1].NAME = "bad"
    monkeypatch.setattr("twofold.validate.groups.GROUPS", made)
    result = twofold("validate", "--data", groups)
    assert result.exit_code == 1
    assert "error: bad: ValueError: no column ms" in result.stderr
    assert "Good" in result.stdout


def test_mistakes_are_explained(twofold: Twofold, groups: Path) -> None:
    assert "did you mean 'good'" in twofold("validate", "--group", "goods").stderr
    assert "is no folder" in twofold("validate", "--data", groups / "nowhere").stderr
