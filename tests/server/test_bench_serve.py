"""The load generator against our own server: a tiny model in a real worker process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.models.tiny import tiny_gguf
from tests.server.fakes import served
from tests.server.gated import Gate, gated
from tests.server.running import serving_plan
from tests.waiting import until
from typer.testing import CliRunner

from twofold.cli import app
from twofold.report.store import Store
from twofold.server.messages import Ended, RequestEvent
from twofold.server.service import Service
from twofold.server.settings import ServerSettings


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Four requests at a time, two that wait."""
    model = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    return Service(serving_plan(model), ServerSettings(model_name="tiny", max_queue=2))


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gated(tmp_path_factory.mktemp("gate")) as found:
        yield found


@pytest.fixture(scope="module")
def url(service: Service, gate: Gate) -> Iterator[str]:
    with served(service) as found:
        yield found


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOFOLD_RESULTS", str(tmp_path / "results.sqlite"))
    monkeypatch.setenv("TWOFOLD_CACHE", str(tmp_path / "cache"))


def bench(url: str, *args: str) -> tuple[list[dict[str, Any]], str]:
    """The points of `bench serve`, and what it says besides."""
    result = CliRunner().invoke(app, ["bench", "serve", url, *args, "--json"], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["points"], result.stderr


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_lengths_are_exact_and_the_prediction_stands_beside(url: str, endpoint: str) -> None:
    load = ("--concurrency", "1,3", "--requests", "5", "--prompt", "60-90", "--output", "4-8")
    points, said = bench(url, *load, "--endpoint", endpoint, "--here", "h100-sxm", "--seed", "7")
    assert "does not know" not in said
    for point in points:
        m, predicted = point["measured"], point["predicted"]
        assert (m["sent"], m["completed"], m["short"], m["counted"]) == (5, 5, 0, "usage")
        assert 5 * 60 <= m["prompt_tokens"] <= 5 * 90
        assert predicted["workload"]["prompt_tokens"] == pytest.approx(m["prompt_tokens"] / 5)
        assert predicted["workload"]["output_tokens"] == pytest.approx(m["output_tokens"] / 5)
        assert predicted["device"] == "h100-sxm"
        assert set(m["latencies"]) == {"ttft", "tpot", "itl", "e2e"}


def test_prompts_have_the_length_that_was_asked_for(url: str) -> None:
    points, _ = bench(url, "--requests", "4", "--prompt", "70", "--output", "3", "--here", "none")
    assert points[0]["measured"]["prompt_tokens"] == 4 * 70


def test_an_open_loop_that_is_too_fast_is_refused_and_counted(url: str, service: Service, gate: Gate) -> None:
    load = (
        "--rate",
        "1000",
        "--arrivals",
        "constant",
        "--requests",
        "40",
        "--prompt",
        "80",
        "--output",
        "40",
    )
    ended: list[RequestEvent] = []

    def heard(event: RequestEvent, seconds: float) -> None:
        if isinstance(event, Ended) and not ended:  # the probe; of the load nobody is answered before all
            ended.append(event)  # but six were refused
            gate.hold()

    service.observe(heard)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(lambda: (until(lambda: service.refused["queue_full"] == 34), gate.open()))
        (point,), said = bench(url, *load, "--here", "none", "--slo", "ttft=600s", "--warm-up", "0")
        opened.result()
    m = point["measured"]
    assert m["errors"] == {"HTTP 429": m["refused"]}
    assert (m["sent"], m["refused"], m["completed"]) == (40, 34, 6), "four run and two wait"
    assert m["good"] == m["completed"]
    assert "not kept with the results: not every request was answered" in said


def test_a_shared_prefix_is_found_in_the_cache_and_predicted_so(url: str) -> None:
    load = (
        "--requests",
        "6",
        "--prompt",
        "96",
        "--output",
        "2",
        "--shared-prefix",
        "0.6",
        "--endpoint",
        "completions",
    )
    (point,), said = bench(url, *load, "--here", "h100-sxm", "--warm-up", "0")
    cached = point["measured"]["cached"] * point["measured"]["prompt_tokens"]
    assert cached > 0
    assert point["predicted"]["counters"]["engine"]["prefix_hit_tokens"] == pytest.approx(cached)
    assert "in the server's prefix cache" in said


def test_a_load_is_kept_with_the_results(url: str) -> None:
    load = ("--requests", "3", "--prompt", "50", "--output", "4", "--endpoint", "completions")
    (point,), said = bench(url, *load, "--here", "none", "--seed", "11")
    assert "not kept" not in said
    (stored,) = Store().find()
    result = stored.result
    assert (result.label, result.workload.requests, result.workload.prompt_tokens) == (
        "served: baseline",
        3,
        50,
    )
    assert result.ttft is not None
    assert result.ttft.mid == pytest.approx(point["measured"]["latencies"]["ttft"]["mean"])
    assert result.plan["workload"]["prompt"] == 50
    assert result.memory.weights.mid > 0
