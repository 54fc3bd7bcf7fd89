"""Input-guided aggressive decoding: drafts follow the input, and greedy outputs stay the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.techniques.decoding.test_copyspec import REPETITIVE, append
from tests.tiny import tiny_engine

from twofold.engine.request import Request, SamplingParams
from twofold.techniques.decoding.aggressive_decoding import InputDrafter, InputGuide
from twofold.techniques.registry import make_technique


def place_by_search(source: list[int], output: list[int], min_gram: int, max_gram: int) -> int | None:
    """Behind the shortest end of the output that occurs once in the source, found the slow way."""
    for n in range(min_gram, min(max_gram, len(output)) + 1):
        places = [i + n for i in range(len(source) - n + 1) if source[i : i + n] == output[-n:]]
        if len(places) < 2:
            return places[0] if places else None
    return None


def drafts_by_search(
    source: list[int], output: list[int], min_gram: int, max_gram: int, limit: int
) -> list[int]:
    """The draft behind `output`, its place in the source followed token by token."""
    at: int | None = None
    for end in range(1, len(output) + 1):
        if at is not None and at < len(source) and source[at] == output[end - 1]:
            at += 1
        else:
            at = place_by_search(source, output[:end], min_gram, max_gram)
    return [] if at is None else source[at : at + limit]


@given(
    source=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    pieces=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), max_size=12),
    min_gram=st.integers(1, 2),
    more=st.integers(0, 2),
    draft=st.integers(1, 12),
)
def test_drafts_equal_a_search_through_the_input(
    source: list[int], pieces: list[list[int]], min_gram: int, more: int, draft: int
) -> None:
    drafter = InputDrafter(draft, min_gram, min_gram + more)
    request = Request("a", source)
    for piece in [[], *pieces]:
        append(request, piece)
        expected = drafts_by_search(source, request.output_ids, min_gram, min_gram + more, draft)
        assert list(drafter.guess(request, 50)) == expected


def test_the_input_is_gone_on_with_where_it_was_right_and_found_again_where_not() -> None:
    drafter = InputDrafter(3, 1, 3)
    request = Request("a", [1, 2, 3, 4, 5, 6, 7, 8])
    assert list(drafter.guess(request, 9)) == []  # nothing says where the output begins
    append(request, [2])
    assert list(drafter.guess(request, 9)) == [3, 4, 5]
    append(request, [3, 4, 9])  # a token of its own: the input is left
    assert list(drafter.guess(request, 9)) == []
    append(request, [6])
    assert list(drafter.guess(request, 9)) == [7, 8]
    assert drafter.counters["hits"] == 2
    drafter.forget(request)
    assert not drafter._guides


def test_a_token_that_occurs_twice_needs_the_one_before_it() -> None:
    drafter = InputDrafter(2, 1, 3)
    request = Request("a", [1, 2, 7, 3, 2, 8])
    append(request, [2])
    assert list(drafter.guess(request, 9)) == []
    append(request, [9])
    append(request, [3, 2])
    assert list(drafter.guess(request, 9)) == [8]


def guided(**params: Any) -> dict[str, Any]:
    return {"techniques": ({"name": "aggressive-decoding", "params": params},)}


@pytest.mark.parametrize("params", [{}, {"draft": 3, "max_gram": 2}], ids=["default", "short"])
def test_greedy_output_stays_and_decodes_are_saved(params: dict[str, int]) -> None:
    """The tiny model does not copy its input, so its input is made from what it will say, with edits."""
    asked = SamplingParams(max_tokens=60, ignore_eos=True)
    plain = tiny_engine()
    expected = [c.token_ids for c in plain.generate(REPETITIVE, asked)]
    engine = tiny_engine(**guided(**params))
    assert isinstance(engine.drafter, InputDrafter)
    requests = [engine.add(prompt, asked) for prompt in REPETITIVE]
    for request, output in zip(requests, expected, strict=True):
        edited = [3 if i % 13 == 12 else token for i, token in enumerate(output)]
        guide = InputGuide(edited, engine.drafter.min_gram, engine.drafter.max_gram)
        engine.drafter._guides[request.id] = guide, 0
    while engine.has_work:
        engine.step()
    assert [r.output_ids for r in requests] == expected
    counters = engine.drafter.counters
    assert 0 < counters["accepted"] < counters["drafted"]
    assert (engine.totals.drafted, engine.totals.accepted) == (counters["drafted"], counters["accepted"])
    assert engine.totals.decodes < 0.7 * plain.totals.decodes


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_sampled_output_stays(family: str) -> None:
    asked = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0.9, seed=4)
    expected = tiny_engine(family).generate(REPETITIVE, asked)
    engine = tiny_engine(family, **guided())
    assert [c.token_ids for c in engine.generate(REPETITIVE, asked)] == [c.token_ids for c in expected]


@pytest.mark.parametrize("name", ["draft", "min_gram", "max_gram"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "three", True])
def test_wrong_parameters_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        make_technique("aggressive-decoding", {name: value})


def test_grams_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="max_gram=1 is below min_gram=2"):
        make_technique("aggressive-decoding", {"min_gram": 2, "max_gram": 1})
