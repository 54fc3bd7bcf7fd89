"""`/metrics`: what the server did and does, in Prometheus' text format.

Names are vLLM's where it has one, behind the prefix `twofold:`, so that a dashboard moves over by its prefix.
Counts and times of requests are taken from the events that clients get; what the engines do comes from the
newest snapshot of each worker. A worker that is started again begins new series under a name of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from twofold.server.messages import Chunk, Embedded, Ended, Failed, RequestEvent
from twofold.server.snapshot_metrics import PER_REPLICA, Described

if TYPE_CHECKING:
    from twofold.server.service import Service

PREFIX = "twofold:"
MOST_FOLLOWED = 16_384
"""Requests whose last token's time is kept. Those of clients that left are among them, until they are the
oldest."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0, 600.0)
_GAPS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_LENGTHS = tuple(float(1 << power) for power in range(18))

MODEL = ("model",)
COUNTERS = (
    Described("prompt_tokens", "counter", MODEL, "Tokens of the prompts that were answered, cached or not."),
    Described("generation_tokens", "counter", MODEL, "Tokens generated and delivered."),
    Described("cached_prompt_tokens", "counter", MODEL, "Prompt tokens taken from the prefix cache."),
    Described("request_success", "counter", (*MODEL, "finished_reason"), "Requests answered to their end."),
    Described(
        "request_failure",
        "counter",
        (*MODEL, "reason"),
        "Requests that were accepted and failed: invalid, lost, timeout, draining, internal.",
    ),
)
HISTOGRAMS = (
    (
        Described(
            "time_to_first_token_seconds", "histogram", MODEL, "From a request's arrival to its first token."
        ),
        _SECONDS,
    ),
    (
        Described(
            "inter_token_latency_seconds",
            "histogram",
            MODEL,
            "Between deliveries of tokens, of which accepted drafts bring several at once.",
        ),
        _GAPS,
    ),
    (
        Described(
            "request_time_per_output_token_seconds",
            "histogram",
            MODEL,
            "From a request's first token to its last, by the tokens after the first.",
        ),
        _GAPS,
    ),
    (
        Described("e2e_request_latency_seconds", "histogram", MODEL, "From a request's arrival to its end."),
        _SECONDS,
    ),
    (
        Described(
            "request_queue_time_seconds", "histogram", MODEL, "Until an engine first scheduled a request."
        ),
        _SECONDS,
    ),
    (Described("request_prompt_tokens", "histogram", MODEL, "Tokens of a prompt."), _LENGTHS),
    (Described("request_generation_tokens", "histogram", MODEL, "Tokens of an answer."), _LENGTHS),
)
LIVE = (
    Described("num_requests_running", "gauge", MODEL, "Requests that are being answered."),
    Described("num_requests_waiting", "gauge", MODEL, "Accepted requests that have yielded nothing yet."),
    Described(
        "request_refused", "counter", (*MODEL, "reason"), "Requests that were refused: queue_full, draining …"
    ),
    Described("request_left", "counter", MODEL, "Requests whose client went before the end."),
)


def describe() -> list[Described]:
    """Every metric in the order of `/metrics`, named as it appears there."""
    tables = [*COUNTERS, *(d for d, _ in HISTOGRAMS), *LIVE, *(d for d, _ in PER_REPLICA)]
    return [
        found._replace(name=f"{PREFIX}{found.name}{'_total' if found.kind == 'counter' else ''}")
        for found in tables
    ]


class Metrics(Collector):
    """Collects from `service` from its creation on. registry: of its own."""

    def __init__(self, service: Service) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._service = service
        self._counters = {
            d.name: Counter(PREFIX + d.name, d.help, d.labels, registry=self.registry) for d in COUNTERS
        }
        self._histograms = {
            d.name: Histogram(PREFIX + d.name, d.help, d.labels, registry=self.registry, buckets=buckets)
            for d, buckets in HISTOGRAMS
        }
        # Looking up a series by its labels costs more than adding to it, and this is done for every token.
        model = service.model_name
        self._tokens_out = self._counters["generation_tokens"].labels(model)
        self._between_tokens = self._histograms["inter_token_latency_seconds"].labels(model)
        self._last: OrderedDict[str, float] = OrderedDict()
        self.registry.register(self)
        service.observe(self.observe)

    # --- events ---

    def observe(self, event: RequestEvent, seconds: float) -> None:
        """Count an event, delivered `seconds` after its request arrived."""
        if isinstance(event, Chunk):
            if event.num_tokens:
                self._tokens(event, seconds)
            return
        self._last.pop(event.id, None)
        if isinstance(event, Failed):
            self._count("request_failure", 1, event.kind)
            return
        self._time("e2e_request_latency_seconds", seconds)
        self._count("prompt_tokens", event.prompt_tokens)
        self._time("request_prompt_tokens", event.prompt_tokens)
        if isinstance(event, Embedded):
            self._count("request_success", 1, "embedded")
        else:
            self._ended(event)

    def _tokens(self, chunk: Chunk, seconds: float) -> None:
        self._tokens_out.inc(chunk.num_tokens)
        before = self._last.pop(chunk.id, None)
        if before is None:
            self._time("time_to_first_token_seconds", seconds)
        else:
            self._between_tokens.observe(seconds - before)
        self._last[chunk.id] = seconds
        if len(self._last) > MOST_FOLLOWED:
            self._last.popitem(last=False)

    def _ended(self, ended: Ended) -> None:
        self._count("request_success", 1, ended.reason)
        self._count("cached_prompt_tokens", ended.cached_tokens)
        self._time("request_queue_time_seconds", ended.queued)
        self._time("request_generation_tokens", ended.output_tokens)
        if ended.output_tokens > 1:
            each = (ended.total - ended.first_token) / (ended.output_tokens - 1)
            self._time("request_time_per_output_token_seconds", each)

    def _count(self, name: str, amount: float, *labels: str) -> None:
        self._counters[name].labels(self._service.model_name, *labels).inc(amount)

    def _time(self, name: str, value: float) -> None:
        self._histograms[name].labels(self._service.model_name).observe(value)

    # --- what is now ---

    def collect(self) -> Iterator[Metric]:
        """Families of what the service and its workers tell when asked."""
        service = self._service
        model = service.model_name
        now: tuple[Iterable[tuple[tuple[str, ...], float]], ...] = (
            [((model,), service.num_running)],
            [((model,), service.num_waiting)],
            [((model, kind), count) for kind, count in sorted(service.refused.items())],
            [((model,), service.num_left)],
        )
        for described, values in zip(LIVE, now, strict=True):
            yield _family(described, values)
        snapshots = service.snapshots()
        for described, read in PER_REPLICA:
            found = [
                ((model, replica, *labels), value)
                for replica, snapshot in snapshots.items()
                for labels, value in read(snapshot)
            ]
            yield _family(described, found)


def _family(described: Described, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    kind = CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily
    family: Any = kind(PREFIX + described.name, described.help, labels=described.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]


def routes(service: Service) -> APIRouter:
    """GET /metrics. One per service: it counts from here on."""
    router = APIRouter(tags=["server"])
    metrics = Metrics(service)

    @router.get(
        "/metrics",
        summary="What did it do?",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
    )
    async def scrape(request: Request) -> Response:
        """Counters, gauges and histograms in Prometheus' text format (or OpenMetrics, where that is asked
        for)."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(metrics.registry), media_type=content_type)

    return router
