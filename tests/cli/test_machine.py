"""`bench`, `calibrate` and `simulate`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Twofold
from tests.devices.fake_native import fake_device

from twofold.engine.episode import Episode
from twofold.jobs import run
from twofold.jobs.bench import Test as BenchTest
from twofold.jobs.bench import bench_plan, make_tests
from twofold.plan import Plan
from twofold.server.simulation.episode import Episode as LifecycleEpisode

LLAMA = {"model": "llama-3.1-8b", "device": "h100-sxm"}


def test_bench_names_its_tests_and_counts_samples(gguf: Path, twofold: Twofold) -> None:
    args = ["--model", gguf, "-p", "32", "-n", "4", "-d", "0,64", "-r", "2", "--max-num-batched-tokens", "64"]
    result = twofold("bench", *args, "-o", "json")
    assert result.exit_code == 0, result.stderr
    records = json.loads(result.stdout)
    assert [r["test"] for r in records] == ["pp32", "tg4", "pp32 @ d64", "tg4 @ d64"]
    assert all(len(r["samples"]) == 2 and r["confidence"] == "measured" for r in records)
    assert all(
        r["tokens_per_s"]["low"] <= r["tokens_per_s"]["mid"] <= r["tokens_per_s"]["high"] for r in records
    )
    table = twofold("bench", *args)
    assert "| tg4 @ d64 |" in table.stdout
    assert "±" in table.stdout
    rows = list(csv.DictReader(io.StringIO(twofold("bench", *args, "-o", "csv").stdout)))
    assert [row["test"] for row in rows] == [r["test"] for r in records]


def test_bench_says_which_ops_had_no_native_kernel(
    gguf: Path, twofold: Twofold, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--model", gguf, "-p", "0", "-n", "4", "-r", "1", "--max-num-batched-tokens", "64"]
    plain = twofold("bench", *args, "--kernels", "reference").stdout
    assert "kernels: reference, threads: 1\n" in plain
    assert "on reference kernels" not in plain
    monkeypatch.setattr(run, "make_device", lambda *_, **__: fake_device())
    table = twofold("bench", *args).stdout
    assert "kernels: native, isa: python, threads: 1\n" in table
    (record,) = json.loads(twofold("bench", *args, "-o", "json").stdout)
    assert (record["kernels"], record["isa"]) == ("native", "python")
    ran = record["reference_ops"]
    assert ran["Attention"] % 4 == 0, "four steps, and as many of them in each layer"
    assert not {"Norm", "AddNorm", "Activate", "RotaryQKV"} & ran.keys()
    assert f"ops on reference kernels in tg4: Linear {ran['Linear']}, " in table
    (row,) = csv.DictReader(io.StringIO(twofold("bench", *args, "-o", "csv").stdout))
    assert f"Attention {ran['Attention']}" in row["reference_ops"]


def test_generation_equals_the_prediction_of_the_same_load(twofold: Twofold) -> None:
    bench = bench_plan(Plan.from_dict(LLAMA), prompts=(), outputs=(64,), depths=(1024,), repeats=1)
    load = ["--prompt", "1024", "--output", "65", "--requests", "1", "--concurrency", "1"]
    point = ["--model", "llama-3.1-8b", "--device", "h100-sxm", *load]
    predicted = json.loads(twofold("predict", *point, "--json").stdout)
    assert bench.outcomes[0].mean == pytest.approx(1 / predicted["tpot"]["mid"], rel=1e-3)


def test_a_prompt_at_depth_does_the_work_that_a_longer_prompt_adds() -> None:
    bench = bench_plan(
        Plan.from_dict(LLAMA), prompts=(512, 2048, 2560), outputs=(), depths=(0, 2048), repeats=1
    )
    flop = {o.test.name: o.flop_per_s[0] * o.test.tokens / o.tokens_per_s[0] for o in bench.outcomes}
    assert flop["pp512 @ d2048"] == pytest.approx(flop["pp2560"] - flop["pp2048"], rel=0.01)
    assert flop["pp512 @ d2048"] > 1.02 * flop["pp512"]


def test_bench_tests_are_checked() -> None:
    assert make_tests([512, 0], [128], [0], 512) == [BenchTest("pp", 512, 0), BenchTest("tg", 128, 0)]
    with pytest.raises(ValueError, match="depth 1000 is no multiple of the 512 tokens of a step; use 1024"):
        make_tests([512], [], [1000], 512)
    with pytest.raises(ValueError, match="nothing to measure"):
        make_tests([0], [0], [0], 512)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        make_tests([-1], [], [0], 512)


def test_bench_refuses_more_than_the_context(gguf: Path, twofold: Twofold) -> None:
    result = twofold("bench", "--model", gguf, "-p", "512")
    assert result.exit_code == 2
    assert "a test of 513 tokens exceeds the context" in result.stderr


@pytest.mark.parametrize("what", [(), ("--server",)])
def test_simulate_prints_its_seed_and_replays_it(twofold: Twofold, what: tuple[str, ...]) -> None:
    first = twofold("simulate", *what, "--requests", "60", "--json")
    assert first.exit_code == 0, first.stderr
    seed = first.stderr.removeprefix("seed: ").strip()
    again = twofold("simulate", *what, "--requests", "60", "--seed", seed, "--json")
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert json.loads(first.stdout)["requests"] == 60


@pytest.mark.parametrize(("what", "played"), [("", Episode), (" --server", LifecycleEpisode)])
def test_a_failed_simulation_says_how_to_replay_it(
    twofold: Twofold, monkeypatch: pytest.MonkeyPatch, what: str, played: type
) -> None:
    def broken(self: object) -> Any:
        raise AssertionError("a block was lost")

    monkeypatch.setattr(played, "play", broken)
    result = twofold("simulate", "--requests", "600", "--seed", "7", *what.split())
    assert result.exit_code == 1
    assert "a block was lost" in result.stderr
    assert f"replay: twofold simulate --requests 600 --seed 7 --episode 0{what}\n" in result.stderr


def test_simulate_refuses_nonsense(twofold: Twofold) -> None:
    assert twofold("simulate", "--requests", "0").exit_code == 2
    assert twofold("simulate", "--requests", "10", "--episode", "3").exit_code == 2


@pytest.mark.long
def test_calibrate_makes_this_cpu_a_device(twofold: Twofold) -> None:
    result = twofold("calibrate", "--quick", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert Path(found["path"]).is_file()
    assert twofold("predict", "--model", "gpt2-124m", "--device", "this-cpu", "--output", "4").exit_code == 0
