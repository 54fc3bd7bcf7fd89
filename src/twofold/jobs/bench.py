"""`bench`: prompt processing and generation at depths of context, in llama-bench's words (pp512, tg128, @
d4096)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from twofold.devices.registry import is_real, make_device
from twofold.devices.uncertainty import Spread, confidence_of, spread
from twofold.engine.build import Progress, build_engine
from twofold.engine.engine import Engine, Prompt
from twofold.engine.request import Request, SamplingParams
from twofold.jobs.intervals import inverse, precision_in, standing_of, widened
from twofold.jobs.predict import label_of
from twofold.jobs.run import load_engine
from twofold.models.find import find_checkpoint, find_spec, find_stored
from twofold.plan import Plan
from twofold.report.schema import Confidence, Figure

BATCH = 512


@dataclass(frozen=True, slots=True)
class Test:
    """One measurement: `tokens` of a prompt ("pp") or of an answer ("tg") after `depth` tokens of context."""

    kind: str
    tokens: int
    depth: int

    @property
    def name(self) -> str:
        """As llama-bench writes it."""
        return f"{self.kind}{self.tokens}" + (f" @ d{self.depth}" if self.depth else "")


@dataclass(slots=True)
class Outcome:
    """Samples of one test: tokens/s, and achieved bytes/s and FLOP/s by counting. reference_ops: how often
    each op ran on its reference kernel in the last of them, for want of a native one. interval: that of a
    prediction."""

    test: Test
    tokens_per_s: list[float] = field(default_factory=list)
    bytes_per_s: list[float] = field(default_factory=list)
    flop_per_s: list[float] = field(default_factory=list)
    reference_ops: dict[str, int] = field(default_factory=dict)
    interval: Spread | None = None

    def figure(self, values: Sequence[float], unit: str) -> Figure:
        """The mean of `values` with its interval: the range over the samples, or that of a prediction."""
        found = Figure.spread(values, unit)
        return found if self.interval is None else widened(found, self.interval)

    @property
    def mean(self) -> float:
        """Mean tokens/s."""
        return math.fsum(self.tokens_per_s) / len(self.tokens_per_s)

    @property
    def deviation(self) -> float:
        """Standard deviation of the samples' tokens/s, 0 for one sample."""
        return statistics.stdev(self.tokens_per_s) if len(self.tokens_per_s) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class Bench:
    """All tests of one model on one device. weight_bytes: as stored; parameters: weights of the model;
    settings: the device's own (kernels, instruction set, threads). plan, engine: that were used."""

    model: str
    device: str
    techniques: str
    confidence: Confidence
    parameters: int
    weight_bytes: int
    outcomes: list[Outcome]
    settings: dict[str, Any]
    plan: Plan = field(repr=False)
    engine: Engine = field(repr=False)

    def records(self) -> list[dict[str, Any]]:
        """One record per test for JSON; figures as in the schema of results, with the range over the
        samples."""
        return [
            {
                "model": self.model,
                "device": self.device,
                "techniques": self.techniques,
                "confidence": self.confidence,
                **self.settings,
                "parameters": self.parameters,
                "weight_bytes": self.weight_bytes,
                "test": outcome.test.name,
                "tokens": outcome.test.tokens,
                "depth": outcome.test.depth,
                "tokens_per_s": outcome.figure(outcome.tokens_per_s, "token/s").model_dump(),
                "deviation": outcome.deviation,
                "samples": outcome.tokens_per_s,
                "achieved_gb_s": outcome.figure([b / 1e9 for b in outcome.bytes_per_s], "GB/s").model_dump(),
                "achieved_gflop_s": outcome.figure(
                    [f / 1e9 for f in outcome.flop_per_s], "GFLOP/s"
                ).model_dump(),
                "reference_ops": outcome.reference_ops,
            }
            for outcome in self.outcomes
        ]


def make_tests(
    prompts: Sequence[int], outputs: Sequence[int], depths: Sequence[int], batch: int
) -> list[Test]:
    """Every prompt length and output length at every depth; 0 leaves a kind out. ValueError for lengths that
    make no sense, or a depth that is no multiple of `batch` tokens (a prompt is computed in such pieces, and
    timing begins between two)."""
    for name, values in (("prompt", prompts), ("output", outputs), ("depth", depths)):
        if any(value < 0 for value in values):
            raise ValueError(f"{name} lengths must be 0 or more, not {min(values)}")
    tests = []
    for depth in depths:
        for tokens in filter(None, prompts):
            if depth % batch:
                near = max(1, round(depth / batch)) * batch
                raise ValueError(
                    f"depth {depth} is no multiple of the {batch} tokens of a step; use {near}, "
                    f"or --max-num-batched-tokens {math.gcd(depth, batch)}"
                )
            tests.append(Test("pp", tokens, depth))
        tests += [Test("tg", tokens, depth) for tokens in filter(None, outputs)]
    if not tests:
        raise ValueError("nothing to measure: give a prompt length (-p) or an output length (-n) above 0")
    return tests


def bench_plan(
    plan: Plan,
    *,
    prompts: Sequence[int] = (512,),
    outputs: Sequence[int] = (128,),
    depths: Sequence[int] = (0,),
    repeats: int = 5,
    progress: Progress | None = None,
) -> Bench:
    """Measure (or, on a modelled device, predict) the tests `repeats` times each, one request at a time,
    after one warm-up.

    ValueError where the plan cannot work or a test exceeds the model's context.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; it must be at least 1")
    batch = plan.engine.max_num_batched_tokens or BATCH
    tests = make_tests(prompts, outputs, depths, batch)
    spec = find_spec(plan.model)
    longest = max(test.depth + test.tokens + 1 for test in tests)
    if longest > spec.max_context:
        raise ValueError(
            f"a test of {longest} tokens exceeds the context of {spec.name}, {spec.max_context} tokens"
        )
    plan = plan.model_copy(
        update={
            "engine": plan.engine.model_copy(
                update={"max_num_batched_tokens": batch, "prefix_caching": False, "max_num_seqs": 1}
            ),
            "workload": plan.workload.model_copy(
                update={"prompt": longest - 1, "output": 1, "concurrency": 1, "rate": None}
            ),
        }
    )
    if is_real(plan.device):
        engine = load_engine(plan, find_checkpoint(plan.model), progress=progress)
    else:
        device = make_device(plan.device, **plan.parallel.model_dump())
        engine = build_engine(plan, device, spec, find_stored(plan.model))
    outcomes = []
    for number, test in enumerate(tests):
        outcome = Outcome(test)
        for repeat in range(-1, repeats):
            if progress is not None:
                progress(test.name, number * (repeats + 1) + repeat + 1, len(tests) * (repeats + 1))
            sample = _measure(engine, test)
            if repeat >= 0:
                for into, value in zip(
                    (outcome.tokens_per_s, outcome.bytes_per_s, outcome.flop_per_s), sample, strict=True
                ):
                    into.append(value)
            outcome.reference_ops = dict(engine.device.reference_ops)
        if not engine.device.real:
            outcome.interval = _interval(engine, test)
        outcomes.append(outcome)
    engine.check_techniques()
    engine.close()
    return Bench(
        plan.model,
        engine.device.name,
        label_of(plan),
        "measured" if engine.device.real else confidence_of(standing_of(engine.device, "")),
        spec.num_parameters(),
        engine.memory.weights,
        outcomes,
        engine.device.settings(),
        plan,
        engine,
    )


def _measure(engine: Engine, test: Test) -> tuple[float, float, float]:
    """Tokens/s, bytes/s and FLOP/s of one request, from the end of its context to the end of the test."""
    length = test.depth + test.tokens if test.kind == "pp" else max(1, test.depth)
    yielded = 1 if test.kind == "pp" else test.tokens + 1
    prompt: Prompt = _ids(engine, length) if engine.device.real else length
    request = engine.add(prompt, SamplingParams(max_tokens=yielded, ignore_eos=True))
    while not _begun(request, test):
        engine.step()
    start = engine.clock.now()
    before = request.num_output_tokens
    engine.device.reset_totals()
    while not request.is_finished:
        engine.step()
    seconds = engine.clock.now() - start
    engine.forget(request.id)
    work = engine.device.totals.values()
    tokens = test.tokens if test.kind == "pp" else request.num_output_tokens - before
    moved, flop = sum(w.bytes_moved for w in work), sum(w.flop for w in work)
    return tokens / seconds, moved / seconds, flop / seconds


def _interval(engine: Engine, test: Test) -> Spread:
    """The interval of tokens/s: a prompt's follows its time to the first token, an answer's its time per
    token."""
    precision = precision_in(engine.derived, [a.technique.params for a in engine.actives])
    standing = standing_of(engine.device, precision, 1, test.depth + test.tokens)
    return inverse(spread("ttft" if test.kind == "pp" else "tpot", standing))


def _begun(request: Request, test: Test) -> bool:
    """Whether what comes before the test is done."""
    return request.num_computed >= test.depth if test.kind == "pp" else request.num_output_tokens > 0


def _ids(engine: Engine, length: int) -> list[int]:
    """Token ids that do not repeat with a short period, so that no technique finds more in them than in
    text."""
    vocab = engine.runner.model.spec.vocab_size
    return [(7919 * i * i + 104729 * i + 17) % vocab for i in range(length)]
