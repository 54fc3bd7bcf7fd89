"""The groups that play loads: which cases they yield, with which settings, and what they leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.measured.test_serving_table import recording, table

from twofold.measured.serving import read_serving
from twofold.validate.groups import maximum_load, replay, serving

SMALL = {"model_path": "meta-llama/Llama-3.2-1B-Instruct", "isl": "64", "osl": "16", "tp_size": "1"}


def test_a_point_is_predicted_twice_and_others_are_left_out_with_reasons(tmp_path: Path) -> None:
    strange = [{"system": "abacus"}, {"model_path": "x/y"}, {"backend": "z"}, {"gemm_quant_mode": "w1"}]
    table(tmp_path, SMALL, *({**SMALL, **row} for row in strange))
    ttft, tpot = serving.samples(tmp_path)
    assert (ttft.quantity, tpot.quantity) == ("ttft", "tpot")
    assert ttft.case != tpot.case
    assert (ttft.device, ttft.model, ttft.tokens) == ("h100-sxm", "llama-3.2-1b", 8.0)
    assert 0 < tpot.predicted < ttft.predicted
    assert sorted(serving.left_out(tmp_path)) == [
        "no architecture for model 'x/y'",
        "no device for system 'abacus'",
        "no profile of serving software 'z'",
        "unknown quantisation 'w1'",
    ]


def test_the_benchmark_sets_the_limits(tmp_path: Path) -> None:
    point = read_serving(table(tmp_path, {}))[0]
    plan = serving.plan_of(point)
    assert (plan.engine.serving, plan.engine.max_num_seqs) == ("vllm-sync", 8)
    assert plan.engine.max_num_batched_tokens == 8 + 1024 + 1500
    assert serving.plan_of(replace(point, version="0.18.0")).engine.serving == "vllm"
    other = serving.plan_of(replace(point, software="trtllm", products="fp8")).engine
    assert (other.max_num_batched_tokens, other.weights, other.cache_format) == (8 + 1024 + 500, "fp8", "fp8")
    series = serving.plan_of(replace(point, id="2026_04_06_qwen", version="")).engine
    assert (series.serving, series.max_num_batched_tokens) == ("vllm", 8192)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b"),
    ],
)
def test_models_are_known_by_their_names_on_the_hub(path: str, name: str) -> None:
    assert serving.model_of(path) == name


def test_a_longer_queue_means_a_longer_wait(tmp_path: Path) -> None:
    points = read_serving(table(tmp_path, SMALL, {**SMALL, "batch_size": "32"}))
    few, many = (serving.predict(p) for p in points)
    assert few.ttft < many.ttft
    assert few.tpot < many.tpot


def test_a_recording_yields_its_percentiles(tmp_path: Path) -> None:
    path = recording(tmp_path)
    assert replay.wanted(tmp_path) == [path, tmp_path / "requests-x.meta.json"]
    found = {s.case: s for s in replay.samples(tmp_path)}
    assert set(found) == {f"x {q} {p}" for q in ("ttft", "tpot", "e2e") for p in ("p50", "p90")}
    assert found["x ttft p90"].measured == pytest.approx(1.0)
    assert all(s.device == "rtx-4090" and s.predicted > 0 for s in found.values())


def test_a_device_is_known_by_its_title() -> None:
    assert replay.device_of("NVIDIA GeForce RTX 4090") == "rtx-4090"
    with pytest.raises(ValueError, match="no device of the catalogue is called"):
        replay.device_of("NVIDIA GeForce RTX 4091")


def test_percentiles_are_measured_values() -> None:
    assert [replay.percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.9)] == [1.0, 2.0, 3.0]


def test_longer_requests_of_a_full_engine_make_fewer_tokens() -> None:
    table = {"model": "llama-3.2-1b", "device": "t4", "serving": "trtllm-offline", "weights": "dense",
             "cache_format": "auto"}  # fmt: skip
    plan = maximum_load._plan(table, 4096)
    assert maximum_load.throughput(plan, 2048, 64) < maximum_load.throughput(plan, 64, 64)


def test_a_queue_behind_an_unknown_limit_is_left_out(tmp_path: Path) -> None:
    queued = {**SMALL, "id": "2026_04_06_x_1", "silicon_ttft_ms": "1000", "silicon_tpot_ms": "5"}
    point = read_serving(table(tmp_path, queued))[0]
    assert "limit" in serving.reason_to_skip(point)
    assert not serving.reason_to_skip(replace(point, id="x"))
    assert not serving.reason_to_skip(replace(point, ttft=0.2))
