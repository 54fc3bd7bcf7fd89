"""Tests of `bench` as results, so that what was measured once is kept and held against predictions later."""

from __future__ import annotations

import re
from typing import Any

from twofold.jobs.bench import Bench, Outcome, Test
from twofold.jobs.intervals import inverse, widened
from twofold.jobs.result import plain
from twofold.report.schema import Figure, Load, Memory, Result, TechniqueUse

TEST = "test"
"""The key of `derived` that holds the name of the test."""

_ONE_PHASE = "a test of `bench` times one phase of one request"


def bench_results(bench: Bench) -> list[Result]:
    """One result per test: prompt tokens per second, and the time to the first token where no context comes
    before; or the time per token of an answer."""
    return [_result(bench, outcome) for outcome in bench.outcomes]


def test_of(result: Result) -> Test | None:
    """The test that `result` was made by; None where `bench` did not make it."""
    found = re.fullmatch(r"(pp|tg)(\d+)(?: @ d(\d+))?", str(result.derived.get(TEST, "")))
    return None if found is None else Test(found[1], int(found[2]), int(found[3] or 0))


def _result(bench: Bench, outcome: Outcome) -> Result:
    plan, engine = bench.plan, bench.engine
    test, speeds = outcome.test, outcome.tokens_per_s
    speed = outcome.figure(speeds, "token/s")
    figures: dict[str, Figure] = {
        "achieved_gb_s": outcome.figure([b / 1e9 for b in outcome.bytes_per_s], "GB/s"),
        "achieved_gflop_s": outcome.figure([f / 1e9 for f in outcome.flop_per_s], "GFLOP/s"),
    }
    if test.kind == "tg":
        figures |= {"tokens_per_s": speed, "tpot": _time(outcome, 1)}
    else:
        figures["prefill_tokens_per_s"] = speed
        if not test.depth:
            figures["ttft"] = _time(outcome, test.tokens)
    absent = ("ttft", "tpot", "itl", "e2e", "tokens_per_s", "prefill_tokens_per_s")
    missing = {name: _ONE_PHASE for name in absent if name not in figures}
    missing |= {"energy_per_token": "`bench` reads no energy meter", "quality": "`bench` measures speed"}
    memory, totals = engine.memory, engine.totals
    derived: dict[str, Any] = {k: v for k, v in engine.derived.items() if isinstance(v, str | int | float)}
    return Result(
        kind="run" if engine.device.real else "predict",
        label=f"{test.name}, {bench.techniques}",
        model=plan.model,
        device=engine.device.name,
        techniques=[
            TechniqueUse(name=a.technique.info.name, params=plain(a.technique.params)) for a in engine.actives
        ],
        workload=Load(
            summary=f"bench {test.name}",
            requests=1,
            prompt_tokens=test.depth + (test.tokens if test.kind == "pp" else 0),
            output_tokens=1 if test.kind == "pp" else test.tokens + 1,
            concurrency=1,
        ),
        memory=Memory.of(
            weights=memory.weights,
            cache=memory.cache_in_use(totals.peak_blocks, totals.peak_seqs),
            activations=memory.activations,
            capacity=memory.capacity,
        ),
        confidence=bench.confidence,
        derived={**derived, TEST: test.name},
        missing=missing,
        plan=plan.model_dump(mode="json", exclude_defaults=True),
        seed=plan.seed,
        **figures,  # type: ignore[arg-type]
    )


def _time(outcome: Outcome, tokens: int) -> Figure:
    """Seconds that `tokens` take at the speed of the test."""
    found = Figure.spread([tokens / speed for speed in outcome.tokens_per_s], "s")
    return found if outcome.interval is None else widened(found, inverse(outcome.interval))
