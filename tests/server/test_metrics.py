"""`/metrics`: what Prometheus' own parser reads there is what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families
from tests.server.test_snapshot import this_cpu, watched
from tests.test_invariants import repetitive, uses
from tests.tiny import tiny_engine, tiny_plan

from twofold.engine.request import SamplingParams
from twofold.server import metrics
from twofold.server.messages import Chunk, Embedded, Ended, Failed, RequestEvent
from twofold.server.metrics import describe
from twofold.server.snapshot import Snapshot, Watch

Read = Callable[..., float]
__all__ = ["this_cpu"]


class StubService:
    """What metrics ask of a service."""

    def __init__(self) -> None:
        self.model_name = "tiny"
        self.num_running, self.num_waiting, self.num_left = 2, 3, 0
        self.refused: Counter[str] = Counter()
        self.found: dict[str, Snapshot] = {}
        self.deliver: Callable[[RequestEvent, float], None] = lambda event, seconds: None

    def observe(self, callback: Callable[[RequestEvent, float], None]) -> None:
        self.deliver = callback

    def snapshots(self) -> dict[str, Snapshot]:
        return self.found


@pytest.fixture
def service() -> StubService:
    return StubService()


@pytest.fixture
def client(service: StubService) -> TestClient:
    app = FastAPI()
    app.include_router(metrics.routes(service))  # type: ignore[arg-type]
    return TestClient(app)


def read(client: TestClient) -> Read:
    """A sample by name and labels, as Prometheus' parser finds it; KeyError where there is none."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(answer.text)
        for s in family.samples
    }
    return lambda name, **labels: found[f"twofold:{name}", frozenset({"model": "tiny", **labels}.items())]


def ended(id: str, **changes: Any) -> Ended:
    values: dict[str, Any] = {
        "reason": "stop",
        "prompt_tokens": 10,
        "output_tokens": 5,
        "cached_tokens": 4,
        "drafted_tokens": 0,
        "accepted_tokens": 0,
        "queued": 0.02,
        "first_token": 0.3,
        "total": 1.1,
    }
    return Ended(id, **{**values, **changes})


def test_requests_are_counted_and_timed(service: StubService, client: TestClient) -> None:
    for seconds, count in ((0.3, 1), (0.5, 3), (0.9, 0), (1.1, 1)):
        service.deliver(Chunk("a", "x", count), seconds)
    service.deliver(ended("a"), 1.2)
    service.deliver(Chunk("b", "", 1), 7.0)
    service.deliver(ended("b", reason="length", output_tokens=1, prompt_tokens=300, cached_tokens=0), 7.5)
    service.deliver(Embedded("c", (1.0,), 20), 0.04)
    service.deliver(Failed("d", "timeout", "too long"), 9.0)
    service.refused["queue_full"] += 2
    service.num_left = 1
    value = read(client)
    assert value("generation_tokens_total") == 6
    assert value("prompt_tokens_total") == 330
    assert value("cached_prompt_tokens_total") == 4
    assert value("request_success_total", finished_reason="stop") == 1
    assert value("request_success_total", finished_reason="length") == 1
    assert value("request_success_total", finished_reason="embedded") == 1
    assert value("request_failure_total", reason="timeout") == 1
    assert value("request_refused_total", reason="queue_full") == 2
    assert value("request_left_total") == 1
    assert (value("num_requests_running"), value("num_requests_waiting")) == (2, 3)
    assert value("time_to_first_token_seconds_sum") == pytest.approx(7.3)
    assert value("time_to_first_token_seconds_bucket", le="0.5") == 1
    assert value("inter_token_latency_seconds_count") == 2
    assert value("inter_token_latency_seconds_sum") == pytest.approx(0.8)
    assert value("request_time_per_output_token_seconds_sum") == pytest.approx(0.2)
    assert value("request_time_per_output_token_seconds_count") == 1
    assert value("e2e_request_latency_seconds_sum") == pytest.approx(1.2 + 7.5 + 0.04)
    assert value("request_queue_time_seconds_bucket", le="0.025") == 2
    assert value("request_prompt_tokens_bucket", le="16.0") == 1
    assert value("request_generation_tokens_sum") == 6


def test_requests_that_are_never_heard_of_again_are_forgotten(
    service: StubService, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MOST_FOLLOWED", 3)
    for number in range(10):
        service.deliver(Chunk(f"gone-{number}", "", 1), 0.1)
        service.deliver(Chunk("here", "", 1), 0.1 * number)
    value = read(client)
    assert value("time_to_first_token_seconds_count") == 11
    assert value("inter_token_latency_seconds_sum") == pytest.approx(0.9)


def test_engines_tell_what_they_did(service: StubService, client: TestClient) -> None:
    engine = tiny_engine(techniques=uses("copyspec"))
    watch = Watch(engine, tiny_plan())
    for ids in repetitive(5):
        engine.add(ids, SamplingParams(max_tokens=30, ignore_eos=True))
    seen = watched(engine, watch)
    service.found = {"worker-0": seen[-1], "worker-1": seen[4]}
    value = read(client)

    def of(name: str, replica: str = "worker-0", **labels: str) -> float:
        return value(name, replica=replica, **labels)

    totals, blocks = engine.totals, engine.scheduler.blocks
    assert of("kv_cache_usage_perc") == 0 < of("kv_cache_usage_perc", "worker-1")
    assert of("cache_blocks_used", "worker-1") == seen[4].used_blocks
    assert of("cache_blocks") == blocks.num_blocks
    assert of("cache_blocks_cached") == blocks.num_cached
    assert of("prefix_cache_queries_total") == blocks.lookup_tokens
    assert of("prefix_cache_hits_total") == blocks.hit_tokens
    assert of("prefill_tokens_total") == totals.prompt_tokens
    assert of("engine_steps_total") == totals.steps
    assert of("engine_step_seconds_total") == pytest.approx(totals.busy_seconds)
    assert of("engine_step_time_seconds", kind="measured") == seen[-1].recent_step
    assert of("spec_decode_num_draft_tokens_total") == totals.drafted
    assert of("spec_decode_num_accepted_tokens_total") == totals.accepted > 0
    for place, (drafted, accepted) in enumerate(
        zip(totals.drafted_by_position, totals.accepted_by_position, strict=True)
    ):
        assert of("spec_decode_num_draft_tokens_per_pos_total", position=str(place)) == drafted
        assert of("spec_decode_num_accepted_tokens_per_pos_total", position=str(place)) == accepted
    for name, count in engine.actives[0].counters.items():
        assert of("technique_events_total", technique="copyspec", counter=name) == count
    assert of("memory_bytes", part="weights") == engine.memory.weights
    assert of("moved_bytes_total", op="linear") == engine.device.totals["linear"].bytes_moved


@pytest.mark.usefixtures("this_cpu")
def test_everything_is_described(service: StubService, client: TestClient) -> None:
    """Every family at `/metrics` is in the table with its labels, and nothing else is in it."""
    engine = tiny_engine(techniques=uses("copyspec"))
    watch = Watch(engine, tiny_plan(device="cpu"))
    for ids in repetitive(3):
        engine.add(ids, SamplingParams(max_tokens=30, ignore_eos=True))
    service.found = {"worker-0": watched(engine, watch)[-1]}
    for event in (Chunk("a", "", 1), Chunk("a", "", 1), ended("a"), Failed("b", "lost", "")):
        service.deliver(event, 1.0)
    service.refused["draining"] = 1
    told = {d.name: d for d in describe()}
    assert len(told) == len(describe())
    families = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for s in family.samples for label in s.labels} - {"le"}
        families[name] = (family.type, labels, family.documentation)
    assert families == {name: (d.kind, set(d.labels), d.help) for name, d in told.items()}


def test_open_metrics_for_those_who_ask(service: StubService, client: TestClient) -> None:
    service.deliver(Chunk("a", "", 1), 1.0)
    answer = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in open_metrics(answer.text)}
    assert "twofold:generation_tokens" in names


def test_services_do_not_share_counts() -> None:
    first, second = StubService(), StubService()
    apps = []
    for service in (first, second):
        app = FastAPI()
        app.include_router(metrics.routes(service))  # type: ignore[arg-type]
        apps.append(TestClient(app))
    first.deliver(Chunk("a", "", 4), 1.0)
    assert read(apps[0])("generation_tokens_total") == 4
    assert read(apps[1])("generation_tokens_total") == 0
