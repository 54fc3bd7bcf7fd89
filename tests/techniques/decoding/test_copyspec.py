"""CopySpec: its drafts are those of a search through the whole text, and greedy outputs stay the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import tiny_engine

from twofold.engine.engine import Engine
from twofold.engine.request import Request, SamplingParams
from twofold.techniques.decoding.copyspec import CopyDrafter, CopySpec
from twofold.techniques.pairs import conflict
from twofold.techniques.registry import make_technique


def drafts_by_search(tokens: list[int], gamma: int, number_copy: int) -> list[int]:
    """What follows the first earlier occurrence of the last `gamma` tokens, found the slow way."""
    newest = tokens[-gamma:]
    for start in range(len(tokens) - gamma):
        if tokens[start : start + gamma] == newest:
            return tokens[start + gamma : start + gamma + number_copy]
    return []


def append(request: Request, tokens: list[int]) -> None:
    request.output_ids += tokens
    request.num_output_tokens += len(tokens)
    request.num_tokens += len(tokens)


@given(
    prompt=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    pieces=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=30),
    gamma=st.integers(1, 5),
    number_copy=st.integers(1, 12),
    limit=st.integers(1, 15),
)
def test_drafts_equal_a_search_through_the_text(
    prompt: list[int], pieces: list[list[int]], gamma: int, number_copy: int, limit: int
) -> None:
    drafter = CopyDrafter(gamma, number_copy)
    request = Request("a", prompt)
    for piece in [[], *pieces]:
        append(request, piece)
        expected = drafts_by_search([*prompt, *request.output_ids], gamma, number_copy)[:limit]
        assert drafter.guess(request, limit) == expected


@given(st.lists(st.integers(0, 1 << 31), min_size=4, max_size=4, unique=True), st.integers(1, 4))
def test_large_token_ids_are_told_apart(ids: list[int], gamma: int) -> None:
    assert CopyDrafter(gamma, 10).guess(Request("a", ids), 10) == []


def test_the_newest_tokens_do_not_match_themselves() -> None:
    drafter = CopyDrafter(3, 10)
    assert drafter.guess(Request("a", [7, 8, 9]), 10) == []
    assert drafter.guess(Request("b", [7, 8, 9, 1, 7, 8, 9]), 10) == [1, 7, 8, 9]
    assert drafter.counters == {"lookups": 2, "hits": 1, "drafted": 0, "accepted": 0}


def test_the_first_occurrence_counts() -> None:
    assert CopyDrafter(2, 2).guess(Request("a", [1, 2, 3, 4, 1, 2, 5, 6, 1, 2]), 10) == [3, 4]


def test_a_replaced_context_is_searched_as_it_was_sent() -> None:
    drafter = CopyDrafter(2, 3)
    request = Request("a", [1, 2, 3, 4, 5, 1, 2])
    request.replace_context([1, 4, 2])
    assert drafter.guess(request, 10) == [3, 4, 5]


def test_requests_are_apart_and_forgotten() -> None:
    drafter = CopyDrafter(2, 3)
    first, second = Request("a", [1, 2, 3, 1, 2]), Request("b", [1, 2, 9, 1, 2])
    assert drafter.guess(first, 10)[0] == 3
    assert drafter.guess(second, 10)[0] == 9
    drafter.forget(first)
    drafter.forget(first)
    again = Request("a", [1, 2, 8, 1, 2])
    assert drafter.guess(again, 10)[0] == 8


def test_acceptance_is_counted_by_position() -> None:
    drafter = CopyDrafter(2, 4)
    request = Request("a", [1])
    drafter.observe(request, 4, 2)
    drafter.observe(request, 3, 0)
    assert drafter.counters["drafted"] == 7
    assert drafter.counters["accepted"] == 2
    assert drafter.tried == [2, 2, 2, 1]
    assert drafter.right == [1, 1, 0, 0]


# --- in the engine ---

REPETITIVE = [
    [5, 6, 7, 8, 9, 10] * 6,
    [11, 12, 13] * 12 + [40, 41],
    list(range(20, 60)) + list(range(20, 60)),
    [3, 4],
]
REPEATING = "gemma3"
"""The family whose small random model falls into loops, so that drafts come true."""


def copying(**params: Any) -> dict[str, Any]:
    return {"techniques": ({"name": "copyspec", "params": params},)}


def drafter_of(engine: Engine) -> CopyDrafter:
    assert isinstance(engine.drafter, CopyDrafter)
    return engine.drafter


@pytest.mark.parametrize("params", [{}, {"gamma": 1, "number_copy": 3}], ids=["default", "eager"])
def test_greedy_output_stays_and_decodes_are_saved(params: dict[str, int]) -> None:
    asked = SamplingParams(max_tokens=100, ignore_eos=True)
    plain = tiny_engine(REPEATING)
    expected = plain.generate(REPETITIVE, asked)
    engine = tiny_engine(REPEATING, **copying(**params))
    got = engine.generate(REPETITIVE, asked)
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]
    counters, totals = drafter_of(engine).counters, engine.totals
    assert 0 < counters["accepted"] < counters["drafted"]
    assert 0 < counters["hits"] <= counters["lookups"]
    assert (totals.drafted, totals.accepted) == (counters["drafted"], counters["accepted"])
    assert totals.decodes <= 0.7 * plain.totals.decodes
    assert sum(drafter_of(engine).right) == counters["accepted"]
    assert not drafter_of(engine)._indexes
    engine.check_techniques()


@pytest.mark.parametrize("family", ["llama", "mixtral", "mistral"])
def test_wrong_drafts_leave_no_trace(family: str) -> None:
    asked = SamplingParams(max_tokens=60, ignore_eos=True)
    expected = tiny_engine(family).generate(REPETITIVE, asked)
    engine = tiny_engine(family, **copying(gamma=1))
    assert [c.token_ids for c in engine.generate(REPETITIVE, asked)] == [c.token_ids for c in expected]
    counters = drafter_of(engine).counters
    assert counters["drafted"] > counters["accepted"]


def test_greedy_output_stays_when_memory_is_scarce() -> None:
    asked = SamplingParams(max_tokens=60, ignore_eos=True)
    expected = tiny_engine(REPEATING).generate(REPETITIVE, asked)
    limits = {"cache_blocks": 12, "max_num_seqs": 4, "max_num_batched_tokens": 32, "max_context": 180}
    engine = tiny_engine(REPEATING, engine=limits, **copying(gamma=1))
    got = engine.generate(REPETITIVE, asked)
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]
    assert engine.scheduler.num_preempted > 0
    assert drafter_of(engine).counters["accepted"] > 0


def test_stop_tokens_within_accepted_drafts_end_the_output() -> None:
    asked = SamplingParams(max_tokens=80, ignore_eos=True)
    free = tiny_engine(REPEATING).generate(REPETITIVE, asked)
    for prompt, completion in zip(REPETITIVE, free, strict=True):
        stop = completion.token_ids[len(completion.token_ids) // 2]
        stopping = SamplingParams(max_tokens=80, ignore_eos=True, stop_token_ids=frozenset({stop}))
        (plain,) = tiny_engine(REPEATING).generate([prompt], stopping)
        (copied,) = tiny_engine(REPEATING, **copying(gamma=1)).generate([prompt], stopping)
        assert copied.token_ids == plain.token_ids


@pytest.mark.parametrize("name", ["gamma", "number_copy"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "three", True])
def test_wrong_parameters_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        make_technique("copyspec", {name: value})


def test_unknown_parameters_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="gamma"):
        make_technique("copyspec", {"gama": 3})


def test_two_drafters_are_refused_together() -> None:
    assert "one technique that drafts" in conflict(CopySpec.info, CopySpec.info)
