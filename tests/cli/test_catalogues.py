"""`models`, `devices`, `techniques`, `claims`, `pull`."""

from __future__ import annotations

import json
from itertools import combinations

from tests.cli.conftest import Twofold

from twofold.devices.registry import device_names
from twofold.techniques.registry import technique_names

COMMON = {"name", "kind", "seams", "lossless", "needs", "source"}


def test_devices(twofold: Twofold) -> None:
    records = json.loads(twofold("devices", "--json").stdout)
    assert {r["name"] for r in records} == set(device_names())
    assert all(set(r) >= COMMON and r["source"] for r in records)
    by_name = {r["name"]: r for r in records}
    assert by_name["h100-sxm"]["bandwidth"] == 3352e9
    assert by_name["pim-gpt"]["kind"] == "pim"
    assert by_name["cpu"]["real"]
    assert by_name["this-cpu"]["needs"] == ["calibration"]
    assert "NVIDIA H100 SXM5 80 GB" in twofold("devices").stdout


def test_techniques(twofold: Twofold) -> None:
    records = json.loads(twofold("techniques", "--json").stdout)
    assert [r["name"] for r in records] == technique_names()
    assert all(set(r) >= COMMON and r["seams"] and r["source"] for r in records)
    kivi = next(r for r in records if r["name"] == "kivi")
    assert kivi["params"] == {"bits": 2, "group": 32, "residual": 128}
    assert "bits=2, group=32, residual=128" in " ".join(twofold("techniques").stdout.split())


def test_pairs(twofold: Twofold) -> None:
    pairs = json.loads(twofold("techniques", "--pairs", "--json").stdout)
    assert {(p["first"], p["second"]) for p in pairs} == set(combinations(technique_names(), 2))
    assert all(p["allowed"] == (not p["reason"]) for p in pairs)
    shown = twofold("techniques", "--pairs").stdout
    assert all(p["reason"].split()[-1] in shown for p in pairs if p["reason"])


def test_models(twofold: Twofold) -> None:
    records = {r["name"]: r for r in json.loads(twofold("models", "--json").stdout)}
    assert 8.0e9 < records["llama-3.1-8b"]["parameters"] < 8.1e9
    assert records["llama-3.1-8b"]["pull"] is None
    assert records["smollm2-135m"]["pull"] == "smollm2-135m"
    assert records["smollm2-135m"]["path"] is None  # the cache of this test is empty
    assert "can be pulled" in twofold("models").stdout


def test_claims(twofold: Twofold) -> None:
    result = twofold("claims", "int-vs-fp", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert rows
    keys = {"system", "kind", "claimed", "ours", "ratio", "verdict", "why", "source"}
    assert all(keys <= set(row) and row["why"] and row["source"] for row in rows)
    assert {row["kind"] for row in rows} == {"technique"}


def test_claims_of_nobody(twofold: Twofold) -> None:
    result = twofold("claims", "kivy")
    assert result.exit_code == 2
    assert "unknown system 'kivy'; did you mean 'kivi'?" in result.stderr


def test_pull_knows_its_models(twofold: Twofold) -> None:
    result = twofold("pull", "smollm2-135n")
    assert result.exit_code == 2
    assert "did you mean 'smollm2-135m'?" in result.stderr
