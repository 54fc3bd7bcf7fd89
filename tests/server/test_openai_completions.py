"""OpenAI's own client against a real HTTP server: plain completions."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI
from tests.server.asking import complete, last_job
from tests.server.fakes import FakeService


def test_a_completion_continues_the_text_itself(client: OpenAI, api_service: FakeService) -> None:
    answer = complete(client, temperature=0)
    assert answer.object == "text_completion"
    assert answer.usage.completion_tokens == 16
    assert last_job(api_service).prompt_ids == tuple(api_service.tokenizer.encode("in the"))
    streamed = list(complete(client, temperature=0, stream=True))
    assert "".join(c.choices[0].text for c in streamed) == answer.choices[0].text
    assert streamed[-1].choices[0].finish_reason == "length"


def test_every_form_of_prompt_is_taken(client: OpenAI, api_service: FakeService) -> None:
    first, second = (api_service.tokenizer.encode(t) for t in ("in the", "the"))
    texts = [complete(client, prompt=p, temperature=0).choices[0].text for p in ("in the", "the")]
    assert [c.text for c in complete(client, prompt=["in the", "the"], temperature=0).choices] == texts
    assert complete(client, prompt=first, temperature=0).choices[0].text == texts[0]
    many = complete(client, prompt=[first, second], temperature=0)
    assert [(c.index, c.text) for c in many.choices] == list(enumerate(texts))
    assert many.usage.prompt_tokens == len(first) + len(second)
    assert complete(client, prompt=None).usage.prompt_tokens == 1
    assert complete(client, prompt="").usage.prompt_tokens == 1


@pytest.mark.parametrize("stream", [False, True])
def test_echo_repeats_the_prompt(client: OpenAI, stream: bool) -> None:
    plain = complete(client, temperature=0).choices[0].text
    answer = complete(client, temperature=0, echo=True, stream=stream)
    parts = [c.choices[0].text for c in answer] if stream else [answer.choices[0].text]
    assert "".join(parts) == "in the" + plain


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_a_completion_have_offsets(client: OpenAI, only: Any, stream: bool) -> None:
    fields = {"logprobs": 2, "temperature": 0, "logit_bias": only("a"), "max_tokens": 5}
    answer = complete(client, stream=stream, **fields)
    found = [c.choices[0].logprobs for c in (answer if stream else [answer])]
    assert [t for part in found if part for t in part.tokens] == ["a"] * 5
    assert [t for part in found if part for t in part.text_offset] == [0, 1, 2, 3, 4]
    tops = [t for part in found if part for t in part.top_logprobs]
    assert all("a" in top and 2 <= len(top) <= 3 for top in tops)


def test_the_best_of_several_is_the_likeliest(client: OpenAI) -> None:
    def mean(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    every = complete(client, n=4, seed=1, logprobs=0)
    best = complete(client, n=2, best_of=4, seed=1, logprobs=0)
    ranked = sorted(every.choices, key=mean, reverse=True)
    assert [c.text for c in best.choices] == [c.text for c in ranked[:2]]
    assert [c.index for c in best.choices] == [0, 1]
    assert best.usage.completion_tokens == every.usage.completion_tokens
    assert complete(client, best_of=3, seed=1).choices[0].logprobs is None
