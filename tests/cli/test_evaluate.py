"""`run`, `predict` and `compare` on tiny models."""

from __future__ import annotations

import json
import shutil
import sqlite3
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Twofold

from twofold.cli import keep
from twofold.devices.catalog import this_cpu_path
from twofold.report.comparison import Comparison
from twofold.report.schema import Result
from twofold.report.store import Store

POINT = [
    "--model",
    "llama-3.1-8b",
    "--device",
    "h100-sxm",
    "--tp",
    "1",
    "--concurrency",
    "8",
    "--prompt",
    "1024",
    "--output",
    "128",
]
SMALL = ["--prompt", "48", "--output", "8", "--requests", "2", "--max-num-seqs", "4"]


def test_a_point_needs_no_file(twofold: Twofold, results_file: Path) -> None:
    result = twofold("predict", *POINT, "--technique", "kivi:bits=2,residual=64", "--json")
    assert result.exit_code == 0, result.stderr
    found = Result.model_validate_json(result.stdout)
    assert (found.kind, found.model, found.device) == ("predict", "llama-3.1-8b", "h100-sxm")
    assert found.techniques[0].params == {"bits": 2, "group": 32, "residual": 64}
    assert found.workload.concurrency == 8
    keys = {"model", "device", "techniques", "ttft", "tpot", "itl", "tokens_per_s", "memory"}
    keys |= {"energy_per_token", "quality", "confidence", "behaviour"}
    assert keys <= set(json.loads(result.stdout))
    assert [s.result.label for s in Store(results_file).find()] == [found.label]


def test_several_devices_give_a_list(twofold: Twofold) -> None:
    result = twofold("predict", "--model", "gpt2-124m", "--devices", "h100-sxm,t4", *SMALL, "--json")
    assert [r["device"] for r in json.loads(result.stdout)] == ["h100-sxm", "t4"]


def test_a_plan_of_a_modelled_device_needs_no_device(tmp_path: Path, twofold: Twofold) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("model: gpt2-124m\ndevice: t4\nworkload: {prompt: 32, output: 4}\n")
    assert json.loads(twofold("predict", file, "--json").stdout)["device"] == "t4"


def test_a_plan_that_does_not_fit_is_refused_with_the_breakdown_and_the_smallest_change(
    twofold: Twofold,
) -> None:
    result = twofold("predict", "--model", "llama-3.1-8b", "--device", "t4")
    assert result.exit_code == 2
    assert "does not fit on t4: weights 16.13 GB, cache" in result.stderr
    assert "It would fit with" in result.stderr
    assert result.stdout == ""


def test_the_devices_that_can_are_predicted_though_others_cannot(twofold: Twofold) -> None:
    result = twofold("predict", "--model", "llama-3.1-8b", "--devices", "t4,h100-sxm", *SMALL, "--json")
    assert result.exit_code == 2
    assert [r["device"] for r in json.loads(result.stdout)] == ["h100-sxm"]
    assert "error: t4: llama-3.1-8b does not fit" in result.stderr


def test_a_prediction_uses_and_names_what_a_run_recorded(gguf: Path, twofold: Twofold) -> None:
    load = ["--prompt", "48", "--output", "60", "--requests", "4"]

    def behaviour(command: str, *more: str, use: str = "copyspec") -> dict[str, Any]:
        result = twofold(command, "--model", gguf, "--technique", use, *load, *more, "--json")
        assert result.exit_code == 0, result.stderr
        return dict(json.loads(result.stdout)["behaviour"])

    before = behaviour("predict", "--device", "t4")
    assert {b["source"] for b in before.values()} == {"paper"}

    measured = {name: b["value"] for name, b in behaviour("run", "--no-quality").items()}
    assert measured

    after = behaviour("predict", "--device", "t4")
    assert {name: after[name]["value"] for name in measured} == measured
    assert {after[name]["source"] for name in measured} == {"recorded"}
    assert all(after[name]["note"].startswith("recorded by result 2 (copyspec on cpu") for name in measured)

    other = behaviour("predict", "--device", "t4", use="copyspec:gamma=4")
    assert {b["source"] for b in other.values()} == {"paper"}

    user = behaviour("predict", "--device", "t4", "--behaviour", "draft_rate=0.125")["draft_rate"]
    assert user == {"value": 0.125, "source": "user", "note": "given by the user"}


def test_run_measures_and_prints_tables(mute: Path, twofold: Twofold, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = twofold("run", "--model", mute, "--no-quality", *SMALL, "--html", page)
    assert result.exit_code == 0, result.stderr
    assert "Measured on cpu" in result.stdout
    assert "<html" in page.read_text(encoding="utf-8")


def test_quality_needs_a_tokenizer(mute: Path, twofold: Twofold) -> None:
    result = twofold("run", "--model", mute, *SMALL)
    assert result.exit_code == 2
    assert "no tokenizer" in result.stderr


def test_a_prompt_beyond_the_context_is_refused(gguf: Path, twofold: Twofold) -> None:
    result = twofold("run", "--model", gguf, "--no-quality", "--prompt", "300", "--output", "4")
    assert result.exit_code == 2
    assert "300 tokens" in result.stderr
    assert "256" in result.stderr


def test_a_technique_that_is_never_reached_fails(gguf: Path, twofold: Twofold) -> None:
    result = twofold("run", "--model", gguf, "--no-quality", "--technique", "gemfilter:keep=200", *SMALL)
    assert result.exit_code == 1
    assert "gemfilter was asked for but never reached" in result.stderr


def test_a_run_over_processes_says_what_was_sent(gguf: Path, twofold: Twofold) -> None:
    quality = ["--quality-tokens", "16", "--quality-window", "64", "--passkey", ""]
    args = ["--technique", "splitwise", "--processes", "--kernels", "reference", *SMALL, *quality]
    result = twofold("run", "--model", gguf, *args, "--json")
    assert result.exit_code == 0, result.stderr
    found = Result.model_validate_json(result.stdout)
    assert found.counters["splitwise"]["transfers"] == 2
    assert found.counters["splitwise"]["sent_bytes"] > 0
    assert found.quality is not None
    assert found.quality.top1_agreement.mid == 1.0


def test_processes_are_for_several_instances(gguf: Path, twofold: Twofold) -> None:
    result = twofold("run", "--model", gguf, *SMALL, "--processes")
    assert result.exit_code == 2
    assert "add splitwise or llumnix" in result.stderr


def compared(gguf: Path) -> list[Any]:
    """A small comparison: two techniques and their combination."""
    quality = ["--quality-tokens", "16", "--quality-window", "64", "--passkey", ""]
    techniques = ["--technique", "kivi:group=16,residual=16", "--technique", "sarathi:chunk=16,tile=16"]
    both = ["--combine", "kivi+sarathi", "--devices", "h100-sxm"]
    return ["compare", "--model", gguf, *techniques, *both, *SMALL, *quality]


def test_compare_measures_predicts_keeps_and_reports(
    gguf: Path, twofold: Twofold, results_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = twofold(*compared(gguf), "--here", "epyc-9654")
    assert result.exit_code == 0, result.stderr
    assert "Measured on cpu" in result.stdout
    assert "kivi(group=16, residual=16) + sarathi" in result.stdout
    assert f"report: {tmp_path / 'twofold-report.html'}" in result.stderr
    assert (tmp_path / "twofold-report.html").is_file()
    kept = Store(results_file).get_comparison(1)
    assert [row.label for row in kept.rows if row.refused is None] == [row.label for row in kept.rows]
    assert kept.baseline.measured is not None
    assert kept.baseline.measured.quality is not None
    assert kept.devices == ["h100-sxm"]
    shown = twofold("results", "show", "1", "--comparison", "--json")
    assert Comparison.model_validate_json(shown.stdout) == kept


def test_compare_calibrates_this_machine_where_it_was_not(
    gguf: Path, twofold: Twofold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quickly(**options: Any) -> None:
        assert options["quick"]
        this_cpu_path().parent.mkdir(parents=True)
        with resources.as_file(resources.files("twofold.devices") / "catalog" / "epyc-9654.yaml") as file:
            shutil.copy(file, this_cpu_path())

    monkeypatch.setattr("twofold.measure.calibrate.calibrate", quickly)
    result = twofold(*compared(gguf), "--no-quality", "--json")
    assert result.exit_code == 0, result.stderr
    assert "note: this CPU is not calibrated yet" in result.stderr
    assert json.loads(result.stdout)["baseline"]["predicted_here"] is not None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--devices", "h10-sxm"], "unknown device 'h10-sxm'; did you mean 'h100-sxm'?"),
        (["--devices", "cpu"], "'cpu' is a real device"),
        (["--here", "epic-9654"], "unknown device 'epic-9654'; did you mean 'epyc-9654'?"),
        (["--technique", "kivi:bitz=2"], "unknown parameter 'bitz'; did you mean 'bits'?"),
        (["--combine", "kivi+sarati"], "unknown technique 'sarati'; did you mean 'sarathi'?"),
        (["--technique", "kivy"], "unknown technique 'kivy'; did you mean 'kivi'?"),
        (
            ["--model", "smollm2-135n"],
            "unknown model 'smollm2-135n', and there is no such file; did you mean 'smollm2-135m'?",
        ),
        (["--model", "llama-3.1-8b"], "no device to predict on"),
    ],
)
def test_compare_refuses_before_it_computes(args: list[str], said: str, gguf: Path, twofold: Twofold) -> None:
    result = twofold("compare", "--model", gguf, "--no-quality", *args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [["compare"], ["run"], ["generate", "hello"], ["chat"]])
def test_the_default_model_says_how_to_get_it(command: list[str], twofold: Twofold) -> None:
    result = twofold(*command)
    assert result.exit_code == 2
    assert "run `twofold pull smollm2-135m`" in result.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--device", "h10-sxm"], "unknown device 'h10-sxm'; did you mean 'h100-sxm'?"),
        (["--device", "cpu"], "'cpu' is a real device"),
        (["--device", "this-cpu"], "run `twofold calibrate`"),
        (["--model", "lama-3.1-8b", "--device", "t4"], "did you mean 'llama-3.1-8b'?"),
        (["--technique", "kivi:bitz=2", "--device", "t4"], "unknown parameter 'bitz'; did you mean 'bits'?"),
        ([], "no device to predict on"),
        (["--devices", "t4,b200", "--html", "x.html"], "--html writes one prediction"),
    ],
)
def test_predict_refuses(args: list[str], said: str, twofold: Twofold) -> None:
    result = twofold("predict", *args)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_locked_results_file_loses_nothing(
    twofold: Twofold, results_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert twofold("predict", *POINT).exit_code == 0
    monkeypatch.setattr(keep, "open_store", lambda: Store(results_file, wait=0.1))
    lock = sqlite3.connect(results_file, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    result = twofold("predict", *POINT, "--json")
    lock.execute("ROLLBACK")
    lock.close()
    assert result.exit_code == 0
    assert json.loads(result.stdout)["model"] == "llama-3.1-8b"
    assert "warning: " in result.stderr
    assert "locked" in result.stderr
    assert len(list(Store(results_file).unsaved.glob("*.json"))) == 1
    assert twofold("predict", *POINT).exit_code == 0
    assert len(Store(results_file).find()) == 3


def test_a_damaged_results_file_is_moved_aside(twofold: Twofold, results_file: Path) -> None:
    results_file.write_bytes(b"this is no database" * 100)
    result = twofold("predict", *POINT, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["model"] == "llama-3.1-8b"
    assert "is damaged" in result.stderr
    (aside,) = results_file.parent.glob("results.sqlite.damaged-*")
    assert aside.read_bytes().startswith(b"this is no database")
    assert len(Store(results_file).find()) == 1
