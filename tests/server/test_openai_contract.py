"""OpenAI's own client against a real HTTP server: models and chat, as users call them.

The model is random, so texts are steered by logit_bias: `only` leaves it the choice of a few letters.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from tests.server.asking import HELLO, chat, last_job
from tests.server.fakes import FakeService

TIME: Any = {"type": "function", "function": {"name": "time"}}

# --- models ---


def test_models_lists_the_one_that_is_served(client: OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


# --- chat ---


def test_a_chat_completion_has_openais_shape(client: OpenAI, api_service: FakeService) -> None:
    answer = chat(client, temperature=0)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint.startswith("fp_")
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    used = answer.usage
    prompt = api_service.tokenizer.chat_ids(HELLO)
    assert used.prompt_tokens == len(prompt)
    assert used.completion_tokens == 8
    assert used.total_tokens == len(prompt) + 8
    assert last_job(api_service).prompt_ids == tuple(prompt)


def test_temperature_is_1_by_default_and_the_rest_of_the_context_the_limit(
    client: OpenAI, api_service: FakeService, only: Any
) -> None:
    answer = chat(client, max_tokens=None, logit_bias=only("a"), stop="aaa")
    params = last_job(api_service).params
    assert params.temperature == 1.0
    assert api_service.ready is not None
    assert params.max_tokens == api_service.ready.max_context - answer.usage.prompt_tokens
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == ""


@pytest.mark.parametrize("fields", [{}, {"logprobs": True, "top_logprobs": 3}, {"stop": ["zz", "q"]}])
def test_a_stream_says_the_same_as_the_whole(client: OpenAI, fields: Any) -> None:
    fields = {**fields, "seed": 5, "max_tokens": 24}
    whole = chat(client, **fields)
    chunks = list(chat(client, stream=True, **fields))
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks][-1] == whole.choices[0].finish_reason
    assert all(c.usage is None for c in chunks)
    if "logprobs" in fields:
        streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
        assert [t.model_dump() for t in streamed] == [
            t.model_dump() for t in whole.choices[0].logprobs.content
        ]


def test_usage_comes_in_a_last_chunk_without_choices(client: OpenAI) -> None:
    options = {"include_usage": True}
    *chunks, last = list(chat(client, stream=True, stream_options=options, n=2))
    assert last.choices == []
    assert last.usage.completion_tokens == 16
    assert all(c.choices and c.usage is None for c in chunks)


def test_choices_have_seeds_of_their_own(client: OpenAI) -> None:
    three = chat(client, n=3, seed=7, max_tokens=12)
    texts = [c.message.content for c in three.choices]
    assert [c.index for c in three.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert three.usage.completion_tokens == 36
    alone = [chat(client, seed=7 + i, max_tokens=12).choices[0].message.content for i in range(3)]
    assert alone == texts


def test_choices_of_a_stream_come_under_their_index(client: OpenAI) -> None:
    texts = ["", "", ""]
    ended = set()
    for chunk in chat(client, n=3, seed=7, max_tokens=12, stream=True):
        [choice] = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ended.add(choice.index)
    whole = chat(client, n=3, seed=7, max_tokens=12)
    assert texts == [c.message.content for c in whole.choices]
    assert ended == {0, 1, 2}


def test_the_cached_part_of_a_prompt_is_told(client: OpenAI) -> None:
    long: Any = [{"role": "user", "content": "A beginning that two requests share. " * 4}]
    chat(client, messages=long)
    used = chat(client, messages=long).usage
    assert 0 < used.prompt_tokens_details.cached_tokens < used.prompt_tokens


def test_stop_strings_are_not_part_of_the_answer(client: OpenAI, only: Any) -> None:
    fields = {"logit_bias": only("ab"), "max_tokens": 60, "seed": 3}
    free = chat(client, **fields).choices[0].message.content
    cut = chat(client, **fields, stop=["bb", "aaaa"]).choices[0]
    where = min(at for at in (free.find("bb"), free.find("aaaa")) if at >= 0)
    assert cut.message.content == free[:where]
    assert cut.finish_reason == "stop"


def test_max_completion_tokens_and_max_tokens_mean_the_same(client: OpenAI) -> None:
    new = chat(client, max_tokens=None, max_completion_tokens=5, seed=1)
    assert new.usage.completion_tokens == 5
    assert new.choices[0].message == chat(client, max_tokens=5, seed=1).choices[0].message
    with pytest.raises(BadRequestError, match="older name"):
        chat(client, max_tokens=5, max_completion_tokens=5)


def test_penalties_make_other_tokens_likelier(client: OpenAI, token: Any) -> None:
    bias = {token("a"): 100, token("b"): 99}
    plain = chat(client, temperature=0, logit_bias=bias).choices[0].message.content
    assert set(plain) == {"a"} or set(plain) == {"b"}
    for penalty in ("presence_penalty", "frequency_penalty"):
        text = chat(client, temperature=0, logit_bias={token("a"): 1}, **{penalty: 2}, max_tokens=30)
        other = chat(client, temperature=0, logit_bias={token("a"): 1}, max_tokens=30)
        assert text.choices[0].message.content != other.choices[0].message.content


def test_top_p_0_and_top_k_1_are_greedy(client: OpenAI) -> None:
    greedy = chat(client, temperature=0).choices[0].message.content
    assert chat(client, top_p=0).choices[0].message.content == greedy
    assert chat(client, extra_body={"top_k": 1}).choices[0].message.content == greedy
    assert chat(client, extra_body={"min_p": 1.0}).choices[0].message.content == greedy


def test_our_own_fields_reach_the_engine(
    client: OpenAI, api_service: FakeService, only: Any, token: Any
) -> None:
    a = int(token("a"))
    body = {"stop_token_ids": [a], "min_tokens": 3, "priority": -2, "repetition_penalty": 1.5, "top_k": -1}
    answer = chat(client, logit_bias=only("a"), extra_body=body)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 3
    job = last_job(api_service)
    assert job.priority == -2
    assert job.params.repetition_penalty == 1.5
    assert job.params.top_k == 0


def test_end_tokens_end_an_answer_unless_ignored(client: OpenAI, api_service: FakeService) -> None:
    end = max(api_service.tokenizer.eos_ids)
    ended = chat(client, logit_bias={str(end): 100}, logprobs=True).choices[0]
    assert (ended.finish_reason, ended.message.content, ended.logprobs.content) == ("stop", "", [])
    going = chat(client, logit_bias={str(end): 100}, logprobs=True, extra_body={"ignore_eos": True})
    assert going.choices[0].finish_reason == "length"
    assert len(going.choices[0].logprobs.content) == 8


def test_log_probabilities_name_each_token_with_its_bytes(client: OpenAI) -> None:
    answer = chat(client, logprobs=True, top_logprobs=4, temperature=0, max_tokens=30)
    content = answer.choices[0].logprobs.content
    assert len(content) == 30
    spelled = b"".join(bytes(t.bytes) for t in content)
    assert spelled.decode(errors="replace") == answer.choices[0].message.content
    for t in content:
        assert len(t.top_logprobs) == 4
        assert t.logprob == t.top_logprobs[0].logprob <= 0  # greedy: the likeliest
        assert [x.logprob for x in t.top_logprobs] == sorted(
            (x.logprob for x in t.top_logprobs), reverse=True
        )


def test_tokens_that_are_part_of_a_character_show_their_bytes(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["é€"]}}}
    fields = {"response_format": form, "logprobs": True, "max_tokens": 20}
    whole = chat(client, **fields).choices[0]
    assert json.loads(whole.message.content) == "é€"
    assert [t.token for t in whole.logprobs.content] == [
        '"', "\\xc3", "\\xa9", "\\xe2", "\\x82", "\\xac", '"'
    ]  # fmt: skip
    for chunk in chat(client, stream=True, **fields):
        assert "\ufffd" not in (chunk.choices[0].delta.content or "")


def test_the_log_probabilities_of_a_stop_string_are_not_told(client: OpenAI, only: Any) -> None:
    fields = {"logit_bias": only("ab"), "max_tokens": 60, "seed": 3, "stop": "bb", "logprobs": True}
    choice = chat(client, **fields).choices[0]
    assert "".join(t.token for t in choice.logprobs.content) == choice.message.content
    chunks = list(chat(client, stream=True, **fields))
    tokens = [t.token for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert "".join(tokens) == choice.message.content


def test_every_kind_of_message_is_read(client: OpenAI, api_service: FakeService) -> None:
    messages: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "Ada", "content": [
            {"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "assistant", "content": None, "refusal": "I will not."},
        {"role": "user", "content": "Why?"},
    ]  # fmt: skip
    chat(client, messages=messages)
    prompt = api_service.tokenizer.decode(list(last_job(api_service).prompt_ids), skip_special=False)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nAda: One\ntwo<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call><|im_end|>\n'
        '<|im_start|>user\n<tool_response>\n{"name": "time", "content": "noon"}\n</tool_response><|im_end|>\n'
        "<|im_start|>assistant\nI will not.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n"
    )


def test_an_answer_can_be_sent_back_as_it_is(client: OpenAI) -> None:
    first = chat(client, tools=[TIME], tool_choice="required", max_tokens=80).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "noon"}
    again = chat(client, messages=[*HELLO, first, result], tools=[TIME], tool_choice="none")
    assert again.choices[0].message.tool_calls is None


def test_what_is_only_recorded_is_recorded(client: OpenAI, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="twofold.server"):
        answer = chat(
            client, metadata={"run": "7"}, user="ada", safety_identifier="h4sh", service_tier="auto"
        )
    assert answer.metadata == {"run": "7"}
    assert answer.service_tier == "default"
    assert answer.id in caplog.text
    assert "'user': 'ada'" in caplog.text
    assert "'safety_identifier': 'h4sh'" in caplog.text


# --- many at once ---


def test_many_clients_at_once_get_their_own_answers(async_client: AsyncOpenAI, client: OpenAI) -> None:
    async def one(seed: int) -> str:
        fields: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 10, "seed": seed}
        if seed % 2:
            stream = await async_client.chat.completions.create(stream=True, **fields)
            return "".join([c.choices[0].delta.content or "" async for c in stream])
        answer = await async_client.chat.completions.create(**fields)
        return answer.choices[0].message.content or ""

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one(seed) for seed in range(12)))

    texts = asyncio.run(all_of_them())
    assert texts == [chat(client, seed=s, max_tokens=10).choices[0].message.content for s in range(12)]
