"""Sarathi's comparisons, predicted by the engine itself: one GPU against batches of whole prompts (table 4 and
figure 8 of arXiv:2308.16369), and GPT-3 on a pipeline of eight stages against Orca's best case (section 5.3).

The source's own method of accounting is kept: a decode's time beside a chunk is what the batch takes longer
than the chunk alone; Orca's best case is Sarathi with a chunk as long as the longest sequence.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import fmean
from typing import NamedTuple

from twofold.claims.ledger import Outcome
from twofold.devices.cluster import Cluster
from twofold.devices.catalog import get_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.sampling_params import SamplingParams
from twofold.models.catalog import get_spec
from twofold.models.spec import ModelSpec
from twofold.plan import EnginePlan, ParallelPlan, Plan, TechniqueUse

CHUNK, TILE = 256, 128
_GIB = 1 << 30
_BLOCK = 16
_PRECISION = "fp16"


class Case(NamedTuple):
    """One row of the source's evaluation: a batch of `batch` requests of `length` tokens, `ratio` times as many
    of them in the prompt as in the output. memory: GiB of the card."""

    model: str
    device: str
    memory: int
    batch: int
    length: int
    ratio: float

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        return self.length - self.output

    @property
    def output(self) -> int:
        """Tokens of an output."""
        return max(1, round(self.length / (self.ratio + 1)))


# Table 4, and the smallest batch of figure 8 at the ratio at which decodes last as long as chunks do.
_A6000_PEAK = Case("llama-13b", "a6000", 48, 2, 1024, 256.0)
_A6000 = Case("llama-13b", "a6000", 48, 6, 1024, 50.0)
_A100_DECODE = Case("llama-33b", "a100-80g-sxm", 80, 5, 2048, 63.0)
_A100_TOTAL = Case("llama-33b", "a100-80g-sxm", 80, 10, 1024, 28.0)


def _sarathi(chunk: int, tile: int) -> tuple[TechniqueUse, ...]:
    return (TechniqueUse(name="sarathi", params={"chunk": chunk, "tile": tile}),)


def _engine(case: Case, batch: int, techniques: tuple[TechniqueUse, ...]) -> Engine:
    limits = EnginePlan(
        policy="prefill-first",
        max_num_seqs=batch,
        max_num_batched_tokens=batch * case.length,
        memory=case.memory * _GIB,
        # The whole batch, and what admission leaves free.
        cache_blocks=case.batch * case.length // _BLOCK * 51 // 50 + 1,
        block_size=_BLOCK,
        prefix_caching=False,
    )
    plan = Plan(model=case.model, precision=_PRECISION, techniques=techniques, engine=limits)
    engine = build_engine(plan, Cluster(get_device(case.device)).rank(), get_spec(case.model))
    engine.trace = []
    return engine


def _play(engine: Engine, lengths: Sequence[tuple[int, int]]) -> float:
    """Seconds until all requests of (prompt, output) tokens, there from the start, have ended."""
    engine.play([(0.0, p, SamplingParams(max_tokens=d, ignore_eos=True)) for p, d in lengths])
    return engine.clock.now()


class Gains(NamedTuple):
    """Sarathi over the baseline: of decodes by the source's accounting, and of all tokens; in seconds, one
    decode in the baseline and its marginal time beside a chunk."""

    decode: float
    total: float
    alone: float
    beside: float


@lru_cache(maxsize=8)
def gains(case: Case, rounds: int = 12) -> Gains:
    """Play `rounds` batches of requests with and without Sarathi."""
    load = [(case.prompt, case.output)] * (case.batch * rounds)
    baseline = _engine(case, case.batch, ())
    baseline_seconds = _play(baseline, load)
    sarathi = _engine(case, case.batch, _sarathi(CHUNK, TILE))
    seconds = _play(sarathi, load)
    piece = CHUNK - (case.batch - 1)
    chunks = _engine(case, 1, _sarathi(piece, piece))
    _play(chunks, [(case.prompt, 1)])
    assert baseline.trace and sarathi.trace and chunks.trace
    alone = fmean(s.seconds / s.decode_tokens for s in baseline.trace if s.decode_tokens == case.batch)
    mixed = fmean(s.seconds for s in sarathi.trace if (s.prefill_tokens, s.num_seqs) == (piece, case.batch))
    chunk = fmean(s.seconds for s in chunks.trace if s.prefill_tokens == piece)
    beside = (mixed - chunk) / (case.batch - 1)
    return Gains(alone / beside, baseline_seconds / seconds, alone, beside)


# Section 5.3.
_STAGES, _PIPELINE_BATCH = 8, 27
_SHORTEST, _LONGEST, _THETA, _RATIO = 1024, 4096, 0.4, 10.0


class Pipeline(NamedTuple):
    """A run on the pipeline: seconds until all requests ended, seconds that a stage stood idle for each batch
    of a request, summed over stages and batches and averaged over requests."""

    seconds: float
    bubbles: float


def _zipf_load(count: int, seed: int) -> list[tuple[int, int]]:
    """(prompt, output) tokens of `count` requests whose lengths follow a Zipf distribution, shortest likeliest."""
    lengths = range(_SHORTEST, _LONGEST + 1)
    weights = [rank**-_THETA for rank in range(1, len(lengths) + 1)]
    drawn = random.Random(seed).choices(lengths, weights, k=count)
    return [(length - d, d) for length in drawn for d in (round(length / (_RATIO + 1)),)]


def _gpt3() -> ModelSpec:
    return replace(get_spec("gpt3-175b"), max_context=_LONGEST)


@lru_cache(maxsize=8)
def pipeline(chunk: int, tile: int, count: int = 1000) -> Pipeline:
    """GPT-3 on 8 × 8 GPUs under Sarathi with `chunk`."""
    parallel = ParallelPlan(tp=8, pp=_STAGES)
    limits = EnginePlan(
        max_num_seqs=_PIPELINE_BATCH * _STAGES,
        max_num_batched_tokens=max(chunk, _PIPELINE_BATCH * _STAGES),
        memory=80 * _GIB,
        prefix_caching=False,
    )
    plan = Plan(
        model="gpt3-175b", precision=_PRECISION, parallel=parallel, techniques=_sarathi(chunk, tile), engine=limits
    )
    device = Cluster(get_device("a100-80g-sxm"), tp=8, pp=_STAGES).rank()
    engine = build_engine(plan, device, _gpt3())
    engine.trace = []
    seconds = _play(engine, _zipf_load(count, seed=0))
    idle = sum(seconds - busy for busy in engine.totals.stage_seconds)
    riders = fmean(step.num_seqs for step in engine.trace)
    return Pipeline(seconds, idle * riders / count)
