"""The engine on a real device: batching never changes what a request yields, and nothing leaks."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tiny import VOCAB, tiny_engine

from twofold.engine.integrity import check
from twofold.engine.request import SamplingParams


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCAB) for _ in range(rng.randrange(1, longest))] for _ in range(count)]


SAMPLINGS = [
    SamplingParams(max_tokens=9, ignore_eos=True),
    SamplingParams(max_tokens=9, ignore_eos=True, temperature=0.8, top_p=0.9, seed=5),
    SamplingParams(max_tokens=9, ignore_eos=True, temperature=1.3, top_k=20, min_p=0.05, seed=6),
    SamplingParams(
        max_tokens=9, ignore_eos=True, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2
    ),
]


@pytest.mark.parametrize("params", SAMPLINGS, ids=["greedy", "top-p", "top-k-min-p", "penalties"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral"])
def test_batching_does_not_change_outputs(family: str, params: SamplingParams) -> None:
    asked = prompts(6)
    together = tiny_engine(family).generate(asked, params)
    alone = tiny_engine(family)
    assert [c.token_ids for c in together] == [alone.generate([p], params)[0].token_ids for p in asked]


@pytest.mark.parametrize(
    "engine",
    [
        {"cache_blocks": 12, "max_num_seqs": 4, "max_num_batched_tokens": 32},
        {"cache_blocks": 12, "max_num_seqs": 4, "max_num_batched_tokens": 32, "preemption": "swap"},
        {"cache_blocks": 12, "max_num_seqs": 4, "max_num_batched_tokens": 32, "prefix_caching": False},
        {"cache_blocks": 12, "max_num_seqs": 4, "max_num_batched_tokens": 64, "policy": "prefill-first"},
    ],
    ids=["recompute", "swap", "no-prefix", "prefill-first"],
)
def test_scarce_memory_does_not_change_outputs(engine: dict[str, object]) -> None:
    asked = prompts(8, seed=3)
    params = SamplingParams(max_tokens=24, ignore_eos=True)
    scarce = tiny_engine(engine={**engine, "max_context": 200})
    got = scarce.generate(asked, params)
    plenty = tiny_engine()
    assert [c.token_ids for c in got] == [plenty.generate([p], params)[0].token_ids for p in asked]
    assert scarce.scheduler.num_preempted > 0
    check(scarce.scheduler)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    blocks=st.integers(10, 40),
    swap=st.booleans(),
    budget=st.integers(4, 80),
    cancel=st.floats(0, 0.3),
)
def test_random_workloads_leak_nothing_and_starve_nobody(
    seed: int, blocks: int, swap: bool, budget: int, cancel: float
) -> None:
    rng = random.Random(seed)
    engine = tiny_engine(
        engine={
            "cache_blocks": blocks,
            "max_num_seqs": 4,
            "max_num_batched_tokens": max(budget, 4),
            "preemption": "swap" if swap else "recompute",
            "max_context": 128,
        }
    )
    alone = tiny_engine()
    waiting = prompts(8, seed, longest=50)
    running = {}
    for _ in range(2000):
        if waiting and rng.random() < 0.3:
            params = SamplingParams(max_tokens=rng.randrange(1, 20), ignore_eos=True)
            request = engine.add(waiting.pop(), params, priority=rng.randrange(3))
            running[request.id] = request
        if running and rng.random() < cancel / 10:
            engine.cancel(rng.choice(sorted(running)))
        engine.step()
        if not waiting and all(r.is_finished for r in running.values()):
            break
    else:
        raise AssertionError(f"{[r for r in running.values() if not r.is_finished]} starved")
    check(engine.scheduler)
    assert engine.scheduler.blocks.num_used == 0
    for request in running.values():
        expected = alone.generate([list(request.prompt_ids or ())], request.params)[0].token_ids
        if request.finish_reason == "cancelled":
            assert request.output_ids == expected[: len(request.output_ids)]
        else:
            assert request.output_ids == expected


def test_prefix_is_computed_once() -> None:
    engine = tiny_engine()
    shared = prompts(1, seed=9, longest=60)[0] + list(range(3, 40))
    first = engine.generate([[*shared, 5, 6]], SAMPLINGS[0])[0]
    before = engine.totals.prompt_tokens
    second = engine.generate([[*shared, 5, 6]], SAMPLINGS[0])[0]
    assert second.token_ids == first.token_ids
    assert engine.totals.prompt_tokens - before < 20
    assert engine.scheduler.blocks.hit_tokens >= len(shared) // 16 * 16 - 16


def test_logprobs_are_those_of_the_chosen_tokens() -> None:
    engine = tiny_engine()
    prompt = prompts(1, seed=4)[0]
    done = engine.generate([prompt], SamplingParams(max_tokens=5, ignore_eos=True, logprobs=3))[0]
    expected = engine.score(prompt + done.token_ids, len(prompt)).log_softmax(-1)
    for row, token, found in zip(expected, done.token_ids, done.logprobs, strict=True):
        assert found is not None
        assert found.chosen == pytest.approx(float(row[token]), abs=1e-4)
        assert len(found.top) == 3
        assert max(found.top.values()) == pytest.approx(found.chosen, abs=1e-4)


def test_wrong_prompts_are_refused() -> None:
    engine = tiny_engine()
    with pytest.raises(ValueError, match="empty prompt"):
        engine.add([])
    with pytest.raises(ValueError, match=r"must lie in 0 … 159"):
        engine.add([1, 2, 160])
    with pytest.raises(ValueError, match="context ends at 256"):
        engine.add([5] * 300)
    with pytest.raises(ValueError, match="no tokenizer"):
        engine.add("text")
    assert not engine.has_work


def test_cancel_frees_blocks_at_once() -> None:
    engine = tiny_engine()
    request = engine.add([5] * 50, SamplingParams(max_tokens=50, ignore_eos=True))
    for _ in range(4):
        engine.step()
    assert engine.scheduler.blocks.num_used > 0
    assert engine.cancel(request.id)
    assert engine.scheduler.blocks.num_used == 0
    assert request.finish_reason == "cancelled"
    assert not engine.cancel(request.id)
