"""What an exploration says, as records: every candidate with its verdict, the winners with their simulation,
and the reasons."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import Field

from twofold.explore.plan import LatencyLimit, Objective
from twofold.report.host import twofold_version
from twofold.report.schema import Figure, Record, Result


class Figures(Record):
    """Figures of one deployment. Latencies in seconds by statistic; memory_bytes: per device;
    usd_per_million: USD per million generated tokens, None where no price is known."""

    tokens_per_s: float
    ttft: dict[str, float]
    tpot: dict[str, float]
    e2e: float
    joules_per_token: float | None
    memory_bytes: float
    usd_per_million: float | None


class Place(Record):
    """What a candidate is: the device, how many and how they share the model, techniques, formats, limits,
    load. None: as the plan leaves it."""

    device: str
    count: int
    tp: int
    pp: int
    dp: int
    ep: int
    techniques: list[str]
    precision: str
    weights: str
    cache_format: str
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    concurrency: int | None
    rate: float | None


class CandidateRow(Record):
    """One candidate that was judged. constraint: which one it fails or that a bound beat it, empty where it
    meets all; on_front: whether no other one that meets all is better in every objective."""

    number: int
    place: Place
    constraint: str
    detail: str
    on_front: bool
    quality: str
    estimate: Figures | None


class Winner(Record):
    """A candidate of the front with its full simulation.

    differences: estimate / simulation − 1 by figure; broken: the limits that the simulation breaks although
    the estimate keeps them; objectives: with their intervals; unsure: numbers of other winners whose
    intervals overlap in the first objective, so that their order is not certain. measured: what running it
    here gave; not_measured: why it was not run.
    """

    number: int
    label: str
    place: Place
    quality: str
    quality_note: str
    price_per_hour: float | None
    estimate: Figures
    simulated: Result
    figures: Figures
    differences: dict[str, float]
    broken: list[str]
    objectives: dict[Objective, Figure]
    bounds: dict[str, float]
    unsure: list[int] = Field(default_factory=list)
    measured: Result | None = None
    not_measured: str = ""


class ConstraintCount(Record):
    """How many candidates a constraint bound, and the one that came closest to meeting it."""

    constraint: str
    candidates: int
    meaning: str
    nearest: str = ""


class ExplorationResult(Record):
    """A finished exploration. space: its size; judged: candidates with a verdict; estimated: of those, how
    many were estimated, the others a bound discarded; seconds: of the search, and with simulations; winners:
    best first, by the first objective, those that break a limit last."""

    title: str
    model: str
    workload: str
    objectives: list[Objective]
    slo: dict[LatencyLimit, float]
    axes: dict[str, int]
    space: int
    judged: int
    estimated: int
    bounded: int
    method: str
    workers: int
    search_seconds: float
    seconds: float
    winners: list[Winner]
    constraints: list[ConstraintCount]
    explanation: list[str]
    notes: list[str]
    candidates: list[CandidateRow]
    seed: int
    twofold_version: str = Field(default_factory=twofold_version)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def best(self) -> Winner | None:
        """The first winner that keeps every limit in the simulation too."""
        return next((winner for winner in self.winners if not winner.broken), None)
