"""Sampling parameters and requests."""

import math

import pytest

from twofold.engine.request import Request, SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1e-300),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", 1e300),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("max_tokens", 0),
        ("max_tokens", True),
        ("min_tokens", 300),
        ("logprobs", 21),
        ("seed", 0.5),
        ("stop", ("",)),
        ("stop", "end"),
    ],
)
def test_wrong_parameters_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        SamplingParams(**{name: value})


def test_parameters_are_normalized():
    params = SamplingParams(stop=["a"], stop_token_ids=[3])
    assert params.stop == ("a",)
    assert params.stop_token_ids == frozenset({3})
    assert params.greedy
    assert SamplingParams(temperature=1e-100).greedy  # divided by it, logits would be infinite
    assert not params.penalized
    assert SamplingParams(presence_penalty=0.5).penalized


def test_stop_ids_include_the_models_own_unless_ignored():
    params = SamplingParams(stop_token_ids=frozenset({3}))
    assert Request(0, [1], params, eos_ids=frozenset({7})).stop_ids == {3, 7}
    params = SamplingParams(stop_token_ids=frozenset({3}), ignore_eos=True)
    assert Request(0, [1], params, eos_ids=frozenset({7})).stop_ids == {3}


def test_tokens_reach_over_context_output_and_drafts():
    request = Request(0, [1, 2, 3])
    request.output_ids += [4, 5]
    request.num_output_tokens = 2
    request.num_tokens = 5
    request.num_computed = 4
    request.set_drafts([6, 7])
    everything = [1, 2, 3, 4, 5, 6, 7]
    for start in range(8):
        for stop in range(start, 8):
            assert request.tokens(start, stop) == everything[start:stop]
    with pytest.raises(AssertionError):
        request.tokens(0, 8)


def test_empty_prompts_and_contexts_are_refused():
    with pytest.raises(ValueError, match="empty prompt"):
        Request("a", [])
    with pytest.raises(ValueError, match="empty prompt"):
        Request("a", 0)
    with pytest.raises(ValueError, match="empty"):
        Request("a", [1]).replace_context([])


def test_replaced_context_is_what_the_model_sees():
    request = Request(0, [1, 2, 3, 4])
    assert not request.context_replaced
    request.replace_context([1, 4])
    assert request.context_replaced
    assert (request.num_prompt_tokens, request.num_context_tokens, request.num_tokens) == (4, 2, 2)
    assert request.tokens(0, 2) == [1, 4]
    counted = Request(1, 100)
    counted.replace_context(10)
    assert counted.context_replaced
    assert counted.num_tokens == 10
