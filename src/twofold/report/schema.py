"""The one JSON schema of results: what a run measured, or what a prediction says, in the same words.

A **figure** is `{"low", "mid", "high", "unit"}`; the three are equal where there is no interval. That of a
prediction contains the true value with 90 % probability, as far as past predictions tell. Units are SI
and fixed by field, so that no reader has to convert: `s`, `B` (bytes), `token/s`, `GB/s` (1e9), `GFLOP/s`
(1e9), `J/token`, `nat`, `1` (a fraction or a plain number). Counts, breakdowns and ceilings are plain numbers
in the unit that their name tells. A figure that is unknown is null, and `missing` says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from twofold.report.host import Host, twofold_version

Confidence = Literal["measured", "calibrated", "datasheet", "not validated"]
Percentile = Literal["p50", "p90", "p99"]
LatencyName = Literal["ttft", "tpot", "itl", "e2e"]
Bound = Literal["compute", "memory", "link", "overhead", "unknown"]

# Figures of a `Result` that may be null; each that is null needs a reason in `Result.missing`.
FIGURES = (
    "ttft",
    "tpot",
    "itl",
    "e2e",
    "tokens_per_s",
    "prefill_tokens_per_s",
    "achieved_gb_s",
    "achieved_gflop_s",
    "energy_per_token",
    "quality",
)


class Record(BaseModel):
    """Base of everything in the schema: immutable, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Record):
    """A number with its interval: `low <= mid <= high`, all finite, in `unit`."""

    low: float
    mid: float
    high: float
    unit: str

    @model_validator(mode="after")
    def _ordered(self) -> Figure:
        if not self.low <= self.mid <= self.high:
            raise ValueError(f"a figure needs low <= mid <= high, not {self.low}, {self.mid}, {self.high}")
        return self

    @classmethod
    def exact(cls, value: float, unit: str) -> Figure:
        """A figure without an interval."""
        return cls(low=value, mid=value, high=value, unit=unit)

    @classmethod
    def spread(cls, values: Sequence[float], unit: str) -> Figure:
        """The mean of repeated measurements, with the smallest and the largest as its interval.

        ValueError where `values` is empty.
        """
        if not values:
            raise ValueError("a spread needs at least one value")
        low, high = min(values), max(values)
        mean = math.fsum(values) / len(values)
        return cls(low=low, mid=min(max(mean, low), high), high=high, unit=unit)

    @property
    def is_exact(self) -> bool:
        """Whether there is no interval."""
        return self.low == self.high


def _in_unit(unit: str) -> AfterValidator:
    """A check that a figure is in `unit`."""

    def check(figure: Figure) -> Figure:
        if figure.unit != unit:
            raise ValueError(f"this figure is in {unit!r}, not in {figure.unit!r}")
        return figure

    return AfterValidator(check)


Seconds = Annotated[Figure, _in_unit("s")]
Bytes = Annotated[Figure, _in_unit("B")]
TokensPerSecond = Annotated[Figure, _in_unit("token/s")]
GigabytesPerSecond = Annotated[Figure, _in_unit("GB/s")]
GigaflopPerSecond = Annotated[Figure, _in_unit("GFLOP/s")]
JoulesPerToken = Annotated[Figure, _in_unit("J/token")]
Nats = Annotated[Figure, _in_unit("nat")]
Plain = Annotated[Figure, _in_unit("1")]


class TechniqueUse(Record):
    """A technique that was on, with all its parameters."""

    name: str
    params: dict[str, JsonValue] = {}


class Load(Record):
    """Summary of the workload: number of requests, mean tokens per request, and how they arrive."""

    summary: str
    requests: int = Field(ge=1)
    prompt_tokens: float = Field(ge=0)
    output_tokens: float = Field(ge=0)
    concurrency: int | None = Field(default=None, ge=1)
    requests_per_s: float | None = Field(default=None, gt=0)


class Memory(Record):
    """Peak bytes on each device, by part. `total` is the sum of the parts.

    other: what is neither weights, cache nor activations, such as a draft model. capacity: what the device
    has. unaccounted: the most by which the process grew from before it loaded the model, minus `total`, less
    what is resident but idle (prompts cached for later, mapped checkpoint files); null in predictions.
    """

    weights: Bytes
    cache: Bytes
    activations: Bytes
    other: Bytes
    total: Bytes
    capacity: Bytes | None = None
    unaccounted: Bytes | None = None

    @model_validator(mode="after")
    def _sums(self) -> Memory:
        parts = math.fsum(f.mid for f in (self.weights, self.cache, self.activations, self.other))
        if not math.isclose(parts, self.total.mid, rel_tol=1e-6, abs_tol=1.0):
            raise ValueError(f"memory: the parts sum to {parts:.0f} B, but total says {self.total.mid:.0f} B")
        return self

    @classmethod
    def of(
        cls,
        *,
        weights: float,
        cache: float,
        activations: float = 0.0,
        other: float = 0.0,
        capacity: float | None = None,
        grown: float | None = None,
    ) -> Memory:
        """From counted bytes. `grown`: bytes in use that the process added; `unaccounted` follows."""
        total = weights + cache + activations + other

        def exact(value: float | None) -> Figure | None:
            return None if value is None else Figure.exact(value, "B")

        return cls(
            weights=Figure.exact(weights, "B"),
            cache=Figure.exact(cache, "B"),
            activations=Figure.exact(activations, "B"),
            other=Figure.exact(other, "B"),
            total=Figure.exact(total, "B"),
            capacity=exact(capacity),
            unaccounted=exact(None if grown is None else grown - total),
        )


class Quality(Record):
    """How far the output is from the unmodified model's, on `tokens` evaluated tokens.

    kl_divergence: mean KL(unmodified || this) per token, in nat. top1_agreement: share of positions where
    both put the same token first. perplexity: of this model; perplexity_baseline: of the unmodified one on
    the same text. passkey: share of hidden keys that were retrieved, by prompt length in tokens. source: the
    text.
    """

    tokens: int = Field(ge=0)
    kl_divergence: Nats | None = None
    top1_agreement: Plain | None = None
    perplexity: Plain | None = None
    perplexity_baseline: Plain | None = None
    passkey: dict[int, Plain] = {}
    source: str = ""


class OpShare(Record):
    """Work and time of one kind of op over the whole result. `flop` counts matrix and vector FLOP; `bytes`
    read plus written; `share` of all seconds; `bound`: what limits it (the largest part where it varies)."""

    kind: str
    calls: int = Field(ge=0)
    seconds: float = Field(ge=0)
    flop: float = Field(ge=0)
    bytes: float = Field(ge=0)
    share: float = Field(ge=0, le=1 + 1e-9)
    bound: Bound = "unknown"
    joules: float | None = Field(default=None, ge=0)


class Ceilings(Record):
    """The roofs of a device: GB/s by memory level and GFLOP/s by precision, with where they come from.

    attention_intensity: FLOP per byte of memory that attention of the plan's model cannot exceed with this
    device's cache, up to a constant factor (see `ops.io_bound`)."""

    gb_s: dict[str, float]
    gflop_s: dict[str, float]
    attention_intensity: float | None = None
    source: str = ""


class BehaviourValue(Record):
    """What depends on real data (accepted draft tokens, share of keys kept …): its value and where it
    comes from."""

    value: float | list[float]
    source: Literal["measured", "recorded", "paper", "user", "assumed"]
    note: str = ""


class Result(Record):
    """One plan on one device: executed (`kind` "run") or predicted ("predict").

    Latencies are means over requests, their intervals the uncertainty of that mean (for a run: the range over
    repeats; for a prediction: `intervals` says what they are); `percentiles` has p50, p90 and p99 over
    requests. joules_by_part: on a machine that is made of parts, "idle" among them.
    confidence: "not validated" where no prediction for that kind of machine was ever measured.
    tokens_per_s: generated tokens over the time from first arrival to last token; prefill_tokens_per_s:
    prompt tokens over the time spent in steps that prefill. achieved_*: counted bytes and FLOP over the time
    spent in steps. memory is per device. counters: by technique ("engine" for the engine's own). derived: the
    defaults that the planner filled in. missing: why a figure is null. plan: what was asked for, where it
    differs from the defaults, so that it can be run or predicted again.
    """

    schema_version: Literal[1] = 1
    kind: Literal["run", "predict"]
    label: str
    model: str
    device: str
    parallel: dict[str, int] = {}
    techniques: list[TechniqueUse] = []
    workload: Load
    ttft: Seconds | None = None
    tpot: Seconds | None = None
    itl: Seconds | None = None
    e2e: Seconds | None = None
    percentiles: dict[LatencyName, dict[Percentile, Seconds]] = {}
    tokens_per_s: TokensPerSecond | None = None
    prefill_tokens_per_s: TokensPerSecond | None = None
    achieved_gb_s: GigabytesPerSecond | None = None
    achieved_gflop_s: GigaflopPerSecond | None = None
    memory: Memory
    energy_per_token: JoulesPerToken | None = None
    quality: Quality | None = None
    confidence: Confidence
    intervals: str = ""
    behaviour: dict[str, BehaviourValue] = {}
    counters: dict[str, dict[str, float]] = {}
    breakdown: list[OpShare] = []
    joules_by_part: dict[str, float] = {}
    ceilings: Ceilings | None = None
    derived: dict[str, JsonValue] = {}
    missing: dict[str, str] = {}
    plan: dict[str, JsonValue] = {}
    seed: int | None = None
    host: Host = Field(default_factory=Host.here)
    twofold_version: str = Field(default_factory=twofold_version)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _complete(self) -> Result:
        unexplained = [name for name in FIGURES if getattr(self, name) is None and not self.missing.get(name)]
        if unexplained:
            raise ValueError(f"null without a reason in `missing`: {', '.join(unexplained)}")
        unknown = sorted(set(self.missing) - set(FIGURES))
        if unknown:
            raise ValueError(
                f"`missing` names what is no figure: {', '.join(unknown)}; figures: {', '.join(FIGURES)}"
            )
        contradicted = [name for name in self.missing if getattr(self, name) is not None]
        if contradicted:
            raise ValueError(
                f"`missing` gives a reason for a figure that is there: {', '.join(contradicted)}"
            )
        if (self.kind == "run") != (self.confidence == "measured"):
            raise ValueError(
                f"kind {self.kind!r} cannot have confidence {self.confidence!r}; only a run is measured"
            )
        return self

    def figure(self, name: str) -> Figure | None:
        """The figure called `name` (of `FIGURES` without quality), or None where it is unknown."""
        value = getattr(self, name)
        assert value is None or isinstance(value, Figure), f"{name} is no figure"
        return value
