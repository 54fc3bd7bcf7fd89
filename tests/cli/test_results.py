"""`results` and `schema`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold

from twofold.plan import Plan
from twofold.report.comparison import Comparison
from twofold.report.schema import Result

SMALL = ("--model", "gpt2-124m", "--prompt", "16", "--output", "4", "--requests", "1")


@pytest.fixture(autouse=True)
def two_results(twofold: Twofold) -> None:
    """Two predictions in the store."""
    for device in ("t4", "h100-sxm"):
        assert twofold("predict", *SMALL, "--device", device).exit_code == 0


def test_the_list_is_newest_first_and_filtered(twofold: Twofold) -> None:
    shown = twofold("results").stdout
    assert shown.index("h100-sxm") < shown.index("t4")
    only = twofold("results", "--device", "t4").stdout
    assert "t4" in only
    assert "h100-sxm" not in only
    nothing = twofold("results", "--model", "nothing")
    assert nothing.exit_code == 0
    assert "that match" in nothing.stderr


def test_show_and_export(twofold: Twofold, tmp_path: Path) -> None:
    found = Result.model_validate_json(twofold("results", "show", "1", "--json").stdout)
    assert found.device == "t4"
    assert "Predicted on t4" in twofold("results", "show", "1").stdout
    rows = json.loads(twofold("results", "export").stdout)
    assert [row["device"] for row in rows] == ["h100-sxm", "t4"]
    table = list(csv.DictReader(io.StringIO(twofold("results", "export", "--format", "csv").stdout)))
    assert float(table[0]["ttft_mid"]) == rows[0]["ttft"]["mid"]
    out = tmp_path / "out.csv"
    assert twofold("results", "export", "--format", "csv", "--device", "t4", "--out", out).exit_code == 0
    assert len(out.read_text().splitlines()) == 2
    page = tmp_path / "page.html"
    assert twofold("results", "show", "2", "--html", page).exit_code == 0
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["show", "99"], "no result 99"),
        (["show", "99", "--comparison"], "no comparison 99"),
        (["--kind", "guess"], "--kind is 'run' or 'predict', not 'guess'"),
        (["--limit", "0"], "limit must be at least 1"),
        (["--device", "t4", "export"], "write the filters after 'export'"),
    ],
)
def test_results_refuse(args: list[str], said: str, twofold: Twofold) -> None:
    result = twofold("results", *args)
    assert result.exit_code == 2
    assert said in result.stderr


def test_an_export_that_cannot_be_written_fails(twofold: Twofold, tmp_path: Path) -> None:
    result = twofold("results", "export", "--out", tmp_path / "no" / "such" / "folder.json")
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr


def test_the_schemas_are_those_of_the_models(twofold: Twofold) -> None:
    assert json.loads(twofold("schema").stdout) == Result.model_json_schema(mode="serialization")
    assert json.loads(twofold("schema", "comparison").stdout) == Comparison.model_json_schema(
        mode="serialization"
    )
    assert json.loads(twofold("schema", "plan").stdout) == Plan.model_json_schema()
    assert "ttft" in json.loads(twofold("schema").stdout)["properties"]
