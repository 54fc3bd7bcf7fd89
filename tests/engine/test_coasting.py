"""Coasting: charging steady steps without the scheduler gives what step after step gives."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import Request, SamplingParams
from twofold.engine.totals import StepRecord
from twofold.models.catalog import get_spec
from twofold.plan import Plan
from twofold.techniques.registry import make_technique, technique_names

MODEL = "llama-3.2-1b"
SCARCE = {"cache_blocks": 40, "max_num_seqs": 6, "max_num_batched_tokens": 128, "max_context": 600}


def build(values: dict[str, Any], *, coasting: bool) -> Engine:
    plan = Plan.from_dict({"model": MODEL, "device": "h100-sxm", **values})
    device = make_device(plan.device, **plan.parallel.model_dump())
    engine = build_engine(plan, device, get_spec(MODEL))
    engine.trace = []
    if not coasting:
        engine.coast = lambda until: False  # type: ignore[method-assign]
    return engine


def load(seed: int, count: int, *, ids: bool = False) -> list[tuple[float, Any, SamplingParams]]:
    """Requests in bursts and pauses; as numbers of tokens, or as ids that share beginnings."""
    random, time = Random(seed), 0.0
    items: list[tuple[float, Any, SamplingParams]] = []
    for _ in range(count):
        time += random.choice([0.0, 0.0, 0.001, 0.01, 0.2])
        length = random.randrange(1, 300)
        prompt = [7] * (length // 32 * 32) + [random.randrange(100) for _ in range(length % 32 + 1)]
        params = SamplingParams(max_tokens=random.choice([1, 2, 17, 80, 400]), ignore_eos=True)
        items.append((time, prompt if ids else length, params))
    return items


def outcome(request: Request) -> tuple[Any, ...]:
    return (
        request.id,
        request.finish_reason,
        request.num_output_tokens,
        request.num_preemptions,
        request.num_cached_tokens,
        request.first_scheduled_time,
        request.finished_time,
        request.token_times,
    )


def assert_same(values: dict[str, Any], items: list[Any], concurrency: int | None = None) -> int:
    """Both ways give the same, step by step and request by request. Returns how many steps were coasted."""
    engines = [build(values, coasting=coasting) for coasting in (True, False)]
    decided = [0, 0]
    ended: list[list[tuple[Any, ...]]] = []
    for index, engine in enumerate(engines):
        schedule = engine.scheduler.schedule

        def counted(now: float, index: int = index, schedule: Any = schedule) -> Any:
            decided[index] += 1
            return schedule(now)

        engine.scheduler.schedule = counted  # type: ignore[method-assign]
        done = engine.play(items, concurrency=concurrency, record_times=True)
        ended.append([outcome(r) for r in done])
    mine, theirs = engines
    assert ended[0] == ended[1]
    assert mine.trace == theirs.trace
    assert mine.totals == theirs.totals
    assert mine.scheduler.num_preempted == theirs.scheduler.num_preempted
    assert mine.scheduler.blocks.num_evicted == theirs.scheduler.blocks.num_evicted
    assert mine.scheduler.blocks.hit_tokens == theirs.scheduler.blocks.hit_tokens
    for kind, totals in mine.device.totals.items():
        assert totals.calls == theirs.device.totals[kind].calls
        assert totals.seconds == pytest.approx(theirs.device.totals[kind].seconds, rel=1e-9)
    return decided[1] - decided[0]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("engine", [{}, SCARCE, {**SCARCE, "policy": "prefill-first"}], ids=str)
def test_arrivals_are_seen_when_they_come(engine: dict[str, Any], seed: int) -> None:
    assert assert_same({"engine": engine}, load(seed, 30)) > 200


@pytest.mark.parametrize(
    "engine", [{}, SCARCE, {**SCARCE, "preemption": "swap", "swap_memory": 10**9}], ids=str
)
def test_a_constant_number_of_requests(engine: dict[str, Any]) -> None:
    assert assert_same({"engine": engine}, load(5, 40), concurrency=8) > 200


@pytest.mark.parametrize("name", [n for n in technique_names() if make_technique(n).fleet_policy() is None])
def test_techniques(name: str) -> None:
    technique = make_technique(name)
    coasted = assert_same({"techniques": [name]}, load(6, 20))
    asked = any(f() is not None for f in (technique.drafter, technique.retention, technique.swapping))
    assert (coasted == 0) == asked, "drafts, what is to stay and where blocks lie are asked for at each step"


@pytest.mark.parametrize("serving", ["vllm", "vllm-sync"])
@pytest.mark.parametrize("concurrency", [None, 6])
def test_host_time_counts(serving: str, concurrency: int | None) -> None:
    values = {"engine": {"serving": serving}}
    assert assert_same(values, load(7, 30), concurrency) > 200


def test_prompts_with_known_ids_are_shared() -> None:
    assert assert_same({"engine": SCARCE}, load(8, 40, ids=True)) > 200


def test_a_pipeline_is_asked_step_by_step() -> None:
    assert assert_same({"parallel": {"pp": 2}}, load(9, 10)) == 0


def test_records_are_those_of_decoding_steps() -> None:
    engine = build({}, coasting=True)
    engine.play([(0.0, 20, SamplingParams(max_tokens=5, ignore_eos=True))] * 3)
    assert engine.trace is not None
    assert [r[2:] for r in engine.trace] == [(60, 0, 3)] + [(0, 3, 3)] * 4
    assert isinstance(engine.trace[-1], StepRecord)
    assert engine.totals.steps == 5
    assert engine.totals.decodes == 12
