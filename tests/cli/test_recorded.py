"""`validate --group recorded`: what was measured on this machine beside what its calibration predicts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Twofold

from twofold.devices.catalog import get_device, this_cpu_path
from twofold.report.store import Store


@pytest.fixture
def calibrated(results_file: Path) -> None:
    """A calibration of this machine: a processor of the catalogue under its name."""
    file = get_device("xeon-6154").model_copy(update={"name": "this-cpu", "confidence": "calibrated"})
    this_cpu_path().parent.mkdir(parents=True)
    this_cpu_path().write_text(
        yaml.safe_dump(file.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
    )


def test_runs_and_tests_are_predicted_again(
    twofold: Twofold, gguf: Path, calibrated: None, results_file: Path, tmp_path: Path
) -> None:
    load = ["--requests", "2", "--prompt", "24", "--output", "4", "--concurrency", "2", "--no-quality"]
    for _ in range(2):  # only the newest of equal plans counts
        assert twofold("run", "--model", gguf, *load).exit_code == 0
    bench = [
        "--model",
        gguf,
        "-p",
        "32",
        "-n",
        "4",
        "-d",
        "0,64",
        "-r",
        "1",
        "--max-num-batched-tokens",
        "64",
    ]
    assert twofold("bench", *bench).exit_code == 0
    points = tmp_path / "points.csv"
    result = twofold("validate", "--group", "recorded", "--json", "--points", points)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    counts = {row["quantity"]: (row["n"], row["labels"]) for row in found["rows"]}
    label = ["calibrated"]
    assert counts["ttft"] == (3, label)  # the run, pp32 and pp32 after 64 tokens
    assert counts["tpot"] == (3, label)  # the run, tg4 and tg4 after 64 tokens
    assert counts["throughput"] == (3, label)
    assert counts["memory"][0] == 1
    runs = {stored.id: stored.result for stored in Store(results_file).find(kind="run")}
    with points.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            measured = runs[int(row["case"].split()[0])]
            if row["quantity"] == "tpot":
                assert measured.tpot is not None
                assert float(row["measured"]) == measured.tpot.mid


def test_what_cannot_be_predicted_again_is_said(
    twofold: Twofold, gguf: Path, calibrated: None, results_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "gone.gguf"
    copy.write_bytes(gguf.read_bytes())
    assert twofold("bench", "--model", copy, "-p", "0", "-n", "4", "-r", "1").exit_code == 0
    copy.unlink()
    result = twofold("validate", "--group", "recorded")
    assert "note: recorded: not predicted: 1 (" in result.stderr


def test_without_a_calibration_nothing_is_compared(twofold: Twofold, gguf: Path) -> None:
    assert twofold("bench", "--model", gguf, "-p", "0", "-n", "4", "-r", "1").exit_code == 0
    result = twofold("validate", "--group", "recorded")
    assert result.exit_code == 0, result.stderr
    assert "note: recorded: nothing to compare with; it reads results of `twofold run`" in result.stderr
