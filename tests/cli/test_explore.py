"""`twofold explore` as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Twofold

PLAN = """
model: llama-3.1-8b
workload: {prompt: 256, output: 32, requests: 16}
explore:
  devices: [h100-sxm]
  counts: [1, 2]
  concurrency: [4]
  slo: {tpot_p90: 50 ms}
  winners: 2
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def test_json(twofold: Twofold, plan: Path) -> None:
    found = twofold("explore", plan, "--jobs", "1", "--json")
    assert found.exit_code == 0
    result = json.loads(found.stdout)
    assert result["judged"] == result["space"] == len(result["candidates"])
    assert {"place", "constraint", "detail", "estimate"} <= set(result["candidates"][0])
    assert result["winners"][0]["simulated"]["kind"] == "predict"


def test_tables_and_a_report(twofold: Twofold, plan: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    found = twofold("explore", plan, "--jobs", "1", "--html", path)
    assert found.exit_code == 0
    for text in ("Best in cost", "Winners", "What bound the candidates"):
        assert text in found.stdout
    assert path.is_file()


def test_options_override_the_plan(twofold: Twofold, plan: Path) -> None:
    found = twofold("explore", plan, "--jobs", "1", "--json", "--prompt", "128")
    assert json.loads(found.stdout)["workload"] == "requests of 128 + 32 tokens"


def test_confirm_says_why_nothing_was_run(twofold: Twofold, plan: Path) -> None:
    found = twofold("explore", plan, "--jobs", "1", "--confirm", "--json")
    assert "not this machine" in json.loads(found.stdout)["winners"][0]["not_measured"]


def test_mistakes_are_said(twofold: Twofold, plan: Path) -> None:
    plan.write_text(PLAN.replace("counts", "conuts"))
    found = twofold("explore", plan)
    assert found.exit_code == 2
    assert "did you mean 'counts'" in found.stderr
