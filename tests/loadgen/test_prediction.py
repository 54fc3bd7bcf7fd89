"""A load that was measured, predicted and kept."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from twofold.jobs.predict import predict_plan
from twofold.loadgen.arrivals import Arrivals
from twofold.loadgen.client import Ask, Exchange, Style
from twofold.loadgen.counting import WordCounter
from twofold.loadgen.load import Load
from twofold.loadgen.measure import Generator, measure
from twofold.loadgen.prediction import as_workload, predict_point, served_plan
from twofold.loadgen.report import Shown, grids, records, statistics
from twofold.loadgen.saving import as_result
from twofold.loadgen.server import Server
from twofold.loadgen.session import Point, Session, Settings
from twofold.plan import Plan
from twofold.report.table import grid_to_markdown

DEVICE = "h100-sxm"
LLAMA = {"model": "llama-3.1-8b", "device": "cpu"}


def exchange(at: float, prompt: int = 100, output: int = 3, **rest: Any) -> Exchange:
    pieces = [at + 0.5 + 0.1 * i for i in range(output)]
    found = Exchange(Ask("x", prompt, output), at, at, pieces[-1], pieces, prompt, output, counted="usage")
    for name, value in rest.items():
        setattr(found, name, value)
    return found


def point(load: Load, *exchanges: Exchange) -> Point:
    return Point(load, list(exchanges), measure(exchanges, Generator(0.0, None)), False)


def poisson(count: int, rate: float = 4.0, seed: int = 5) -> list[float]:
    times = Arrivals(rate).times(seed)
    return [next(times) for _ in range(count)]


@pytest.fixture(scope="module")
def about() -> dict[str, Any]:
    """What a server of that plan would say."""
    told = predict_plan(Plan.from_dict({**LLAMA, "workload": {"requests": 1, "output": 2}}), DEVICE)
    memory = {"weights": 16_000, "cache": 4_000, "activations": 500, "capacity": 90_000}
    return {"given": LLAMA, "derived": told.derived, "memory": memory, "replicas": 1}


def test_the_plan_of_a_server_has_its_decisions(about: dict[str, Any]) -> None:
    plan = served_plan(about)
    assert plan.model == "llama-3.1-8b"
    assert plan.engine.max_num_seqs == about["derived"]["max_num_seqs"]
    assert plan.precision == about["derived"]["precision"]


@pytest.mark.parametrize("concurrency", [None, 2])
def test_the_same_load_is_predicted_as_predict_does(about: dict[str, Any], concurrency: int | None) -> None:
    plan, times = served_plan(about), poisson(6)
    if concurrency is None:
        load, arrive = Load(arrivals=Arrivals(4.0), seed=5), {"rate": 4.0, "seed": 5}
    else:
        load, arrive = Load(concurrency=2), {"concurrency": 2}
    found = predict_point(plan, DEVICE, point(load, *(exchange(t) for t in times)), None, "chat")
    workload = {"requests": 6, "prompt": 100, "output": 3, **arrive}
    told = predict_plan(Plan.from_dict({**plan.model_dump(), "workload": workload}), DEVICE)
    for name in ("ttft", "tpot", "itl", "e2e"):
        assert statistics(found, name) == statistics(told, name)
    assert found.tokens_per_s == told.tokens_per_s


def test_requests_without_an_answer_are_not_predicted() -> None:
    failed = exchange(0.0, error="HTTP 429")
    load = Load(arrivals=Arrivals(1))
    workload = as_workload(point(load, failed, exchange(1.0, output=2), exchange(3.0)), None, "chat")
    assert [(i.time, i.prompt, i.params.max_tokens) for i in workload.items] == [(0.0, 100, 2), (2.0, 100, 3)]
    with pytest.raises(ValueError, match="no request was answered"):
        as_workload(point(load, failed), None, "chat")


class Bytes:
    """A tokenizer of bytes with a template of three tokens."""

    eos_ids: frozenset[int] = frozenset()
    bos_id = None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        return bytes(ids).decode()

    def chat(self, messages: list[dict[str, str]], *, generate: bool = True) -> str:
        return f"<{messages[0]['content']}>:"


def test_prompts_are_token_ids_where_the_server_counted_as_many() -> None:
    same, other = exchange(0.0, prompt=4), exchange(0.0, prompt=9)
    items = as_workload(point(Load(concurrency=1), same, other), Bytes(), "chat").items
    assert [item.prompt for item in items] == [list(b"<x>:"), 9]
    items = as_workload(point(Load(concurrency=1), exchange(0.0, prompt=1)), Bytes(), "completions").items
    assert items[0].prompt == list(b"x")


def test_a_prediction_stands_beside_each_figure(about: dict[str, Any]) -> None:
    measured = point(Load(concurrency=2), *(exchange(t) for t in (0.0, 0.0, 1.0)))
    predicted = predict_point(served_plan(about), DEVICE, measured, None, "chat")
    server = Server(Style(model="m"), WordCounter(), 0, about, ())
    session = Session(Settings(url="http://127.0.0.1:1"), server, [measured])
    shown = [Shown(measured, predicted)]
    latencies, throughput = grids(session, shown)
    assert [line.cells[:2] for line in latencies.lines[:3]] == [
        ("TTFT", "measured"),
        ("", "predicted"),
        ("", "error"),
    ]
    assert latencies.lines[0].cells[2:] == ("500 ms",) * 4
    assert all(cell.startswith("-") for cell in latencies.lines[2].cells[2:]), "an H100 is faster"
    assert throughput.lines[0].cells[3].startswith("+")
    assert DEVICE in grid_to_markdown(latencies)
    (record,) = records(session, shown)["points"]
    assert record["predicted"]["device"] == DEVICE


def test_a_result_can_be_predicted_again(about: dict[str, Any], tmp_path: Path) -> None:
    times = poisson(6)
    load = Load(arrivals=Arrivals(4.0), seed=5)
    result = as_result(about, point(load, *(exchange(t) for t in times)), tmp_path)
    assert (result.kind, result.label, result.device) == ("run", "served: baseline", "cpu")
    assert result.ttft is not None
    assert result.ttft.mid == pytest.approx(0.5)
    assert result.percentiles["e2e"]["p99"].mid == pytest.approx(0.7)
    assert result.memory.total.mid == 20_500
    plan = Plan.from_dict(result.plan)
    assert (plan.workload.requests, plan.workload.rate, plan.workload.seed) == (6, 4.0, 5)
    again = predict_plan(served_plan({**about, "given": result.plan}), DEVICE)
    direct = predict_point(
        served_plan(about), DEVICE, point(load, *(exchange(t) for t in times)), None, "chat"
    )
    assert again.ttft == direct.ttft
    assert not list(tmp_path.iterdir())


def test_a_load_that_a_plan_cannot_say_is_kept_as_a_trace(about: dict[str, Any], tmp_path: Path) -> None:
    exchanges = [exchange(0.0, prompt=10), exchange(0.5, prompt=20), exchange(2.0, prompt=30, output=4)]
    result = as_result(about, point(Load(arrivals=Arrivals(2.0, "constant")), *exchanges), tmp_path)
    plan = Plan.from_dict(result.plan)
    assert plan.workload.trace is not None
    rows = list(csv.DictReader(plan.workload.trace.open()))
    assert [float(r["arrival_time"]) for r in rows] == [0.0, 0.5, 2.0]
    assert [r["output_tokens"] for r in rows] == ["3", "3", "4"]
    told = predict_plan(served_plan({**about, "given": result.plan}), DEVICE)
    assert told.workload.requests == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [({"cached_tokens": 50}, "prefix cache"), ({"error": "timeout"}, "not every request")],
)
def test_what_cannot_be_repeated_is_not_kept(
    about: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    found = point(Load(concurrency=1), exchange(0.0), exchange(1.0, **change))
    with pytest.raises(ValueError, match=said):
        as_result(about, found, tmp_path)
    with pytest.raises(ValueError, match="several"):
        as_result({**about, "replicas": 2}, point(Load(concurrency=1), exchange(0.0)), tmp_path)
