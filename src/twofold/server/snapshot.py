"""What an engine is doing, as plain figures: a worker makes them, the server shows them.

Beside every measured step stands the prediction of the same step: the plan's own engine on the calibrated
model of this processor, charged with the batch that really ran.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from twofold.devices.catalog import THIS_CPU
from twofold.ops.attention import Span

if TYPE_CHECKING:
    from twofold.engine.batch import Batch
    from twofold.engine.engine import Engine
    from twofold.jobs.steps import StepPredictor
    from twofold.plan import Plan

RECENT_STEPS = 64
RECENT_REQUESTS = 32
HELD = 16
"""Steps for which the prediction of a batch stands where they decode the same number of requests: the keys
that each reads grow by one per step, which moves a step's time by far less than it varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One engine at one moment. Seconds, bytes and tokens; sums run since the engine was built.

    running, waiting: requests; used_blocks: in some request's table, cached_blocks: found by prefix matches,
    both of num_blocks; prefix_queries, prefix_hits: tokens looked for and found in the prefix cache;
    preemptions: requests thrown out of memory for others.
    steps: batches that were run, step_seconds and predicted_seconds: what they took and what was predicted
    for them (None where nothing is: prediction_missing says why); last_step, last_predicted: the same of the
    newest; recent_step, recent_predicted: means of the last RECENT_STEPS.
    prompt_tokens: computed, output_tokens: generated; tokens_per_s: generated per second of the recent steps;
    ttft: mean time from arrival to the first token of the recent requests.
    drafted, accepted: guesses verified and right, by place in the draft. techniques: their counters by name.
    memory: bytes planned for weights, cache and activations, and of the cache in use. moved: bytes read and
    written, by kind of op.
    """

    running: int
    waiting: int
    num_blocks: int
    used_blocks: int
    cached_blocks: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    steps: int
    step_seconds: float
    predicted_seconds: float | None
    prediction_missing: str | None
    last_step: float | None
    last_predicted: float | None
    recent_step: float | None
    recent_predicted: float | None
    prompt_tokens: int
    output_tokens: int
    tokens_per_s: float | None
    ttft: float | None
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]
    techniques: Mapping[str, Mapping[str, int]]
    memory: Mapping[str, int]
    moved: Mapping[str, float]


class _Step(NamedTuple):
    """A batch that was run: seconds measured and predicted, tokens that it generated."""

    seconds: float
    predicted: float
    tokens: int


class Watch:
    """Follows `engine`, which runs `plan`: `observe` after every step, `snapshot` whenever one is wanted."""

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._engine = engine
        self._predictor, self._missing = _predictor(engine, plan)
        self._seen: object = None
        self._recent: deque[_Step] = deque(maxlen=RECENT_STEPS)
        self._ttft: deque[float] = deque(maxlen=RECENT_REQUESTS)
        self._steps = 0
        self._seconds = 0.0
        self._predicted = 0.0
        self._held = 0.0
        self._held_for: tuple[int, int] | None = None

    def observe(self) -> None:
        """Take in the step that was just done (nothing where it ran no batch)."""
        newest = self._engine.newest
        if newest is None or newest is self._seen:
            return
        self._seen = newest
        batch, result = newest.batch, newest.result
        assert result.tokens is not None
        step = _Step(result.cost.seconds, self._predict(batch), sum(map(len, result.tokens)))
        self._recent.append(step)
        self._steps += 1
        self._seconds += step.seconds
        self._predicted += step.predicted
        if batch.num_prefills:
            self._take_first_tokens(batch)

    def snapshot(self) -> Snapshot:
        """What the engine is doing now."""
        engine, recent = self._engine, self._recent
        scheduler, totals, memory = engine.scheduler, engine.totals, engine.memory
        blocks = scheduler.blocks
        unfinished = sum([request.num_output_tokens for request in scheduler.requests.values()])
        measured = sum([step.seconds for step in recent])
        predicted = self._predictor is not None
        return Snapshot(
            running=scheduler.num_running,
            waiting=engine.num_waiting,
            num_blocks=blocks.num_blocks,
            used_blocks=blocks.num_used,
            cached_blocks=blocks.num_cached,
            prefix_queries=blocks.lookup_tokens,
            prefix_hits=blocks.hit_tokens,
            preemptions=scheduler.num_preempted,
            steps=self._steps,
            step_seconds=self._seconds,
            predicted_seconds=self._predicted if predicted else None,
            prediction_missing=self._missing,
            last_step=recent[-1].seconds if recent else None,
            last_predicted=recent[-1].predicted if recent and predicted else None,
            recent_step=measured / len(recent) if recent else None,
            recent_predicted=_mean([step.predicted for step in recent]) if predicted else None,
            prompt_tokens=totals.prompt_tokens,
            output_tokens=totals.output_tokens + unfinished,
            tokens_per_s=sum([step.tokens for step in recent]) / measured if measured else None,
            ttft=_mean(self._ttft),
            drafted=tuple(totals.drafted_by_position),
            accepted=tuple(totals.accepted_by_position),
            techniques={a.technique.info.name: a.counters for a in engine.actives},
            memory={
                "weights": memory.weights,
                "cache": memory.cache,
                "cache_used": memory.cache_in_use(blocks.num_used, scheduler.num_running),
                "activations": memory.activations,
            },
            moved={kind: spent.bytes_moved for kind, spent in engine.device.totals.items()},
        )

    def _predict(self, batch: Batch) -> float:
        """Seconds that the calibrated model of this processor gives for `batch`; 0 where there is none."""
        if self._predictor is None or not batch.entries:
            return 0.0
        plain = not batch.num_prefills and batch.num_decode_tokens == batch.num_decodes
        holds_for = (batch.num_decodes, batch.step // HELD) if plain else None
        if holds_for is None or holds_for != self._held_for:
            spans = [Span(entry.num_tokens, entry.num_keys) for entry in batch.entries]
            logits = sum([1 + entry.num_drafts for entry in batch.entries if entry.samples])
            self._held = self._predictor.step(spans, logits).seconds
            self._held_for = holds_for
        return self._held

    def _take_first_tokens(self, batch: Batch) -> None:
        for entry in batch.entries:
            request = entry.request
            # One that begins anew after a preemption has more than one.
            if entry.is_prefill and entry.samples and request.num_output_tokens == 1:
                assert request.first_token_time is not None
                self._ttft.append(request.first_token_time - request.arrival_time)


def _mean(values: Collection[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _predictor(engine: Engine, plan: Plan) -> tuple[StepPredictor | None, str | None]:
    """What predicts the steps of `engine`, or why nothing does."""
    from twofold.jobs.steps import StepPredictor

    if plan.device != "cpu":
        return None, f"steps are predicted for calibrated processors, and this plan runs on {plan.device}"
    try:
        return StepPredictor(plan, THIS_CPU, spec=engine.runner.model.spec), None
    except ValueError as error:
        return None, str(error)
