"""OpenAI's own client against a real HTTP server: answers that follow a schema, and calls of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import OpenAI
from pydantic import BaseModel
from tests.server.asking import HELLO, chat, last_job
from tests.server.fakes import FakeService

from twofold.server.messages import Chunk, Ended

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "time"}}


# --- formats ---


class Trip(BaseModel):
    city: Literal["Rome", "Oslo"]
    days: int


def test_a_pydantic_model_comes_back_filled(client: OpenAI, token: Any) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=HELLO, response_format=Trip, max_tokens=200, logit_bias={token("}"): 100}
    )
    trip = answer.choices[0].message.parsed
    assert isinstance(trip, Trip)
    assert trip.city in ("Rome", "Oslo")


def test_the_model_reads_the_schema(client: OpenAI, api_service: FakeService) -> None:
    schema = {"name": "trip", "description": "a journey", "schema": {"enum": [1, 2]}}
    chat(client, response_format={"type": "json_schema", "json_schema": schema})
    prompt = api_service.tokenizer.decode(list(last_job(api_service).prompt_ids))
    assert "trip (a journey)" in prompt
    assert '{"enum": [1, 2]}' in prompt


def test_json_object_is_an_object_or_cut_off(client: OpenAI, token: Any) -> None:
    bias = {token("}"): 100}
    answer = chat(client, response_format={"type": "json_object"}, logit_bias=bias)
    assert json.loads(answer.choices[0].message.content) == {}
    assert answer.choices[0].finish_reason == "stop"
    cut = chat(client, response_format={"type": "json_object"}, max_tokens=3, logit_bias={token('"'): 100})
    assert cut.choices[0].finish_reason == "length"
    assert cut.choices[0].message.content.startswith("{")


# --- tools ---


def arguments_of(call: Any) -> Any:
    return json.loads(call.function.arguments)


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_function_is_called_once(client: OpenAI, stream: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    fields = {"tools": [TIME, WEATHER], "tool_choice": choice, "max_tokens": 200, "seed": 2}
    if stream:
        with client.chat.completions.stream(model="tiny", messages=HELLO, **fields) as events:
            done = events.get_final_completion().choices[0]
    else:
        done = chat(client, **fields).choices[0]
    assert done.finish_reason == "tool_calls"
    assert done.message.content is None or not done.message.content
    [call] = done.message.tool_calls
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert call.function.name == "weather"
    found = arguments_of(call)
    assert found["city"] in ("Rome", "Oslo")
    assert found["days"] <= 9


def test_calls_stream_by_index_in_pieces(client: OpenAI) -> None:
    fields = {"tools": [WEATHER, TIME], "tool_choice": "required", "max_tokens": 400, "seed": 4}
    whole = chat(client, **fields).choices[0]
    calls: dict[int, dict[str, str]] = {}
    for chunk in chat(client, stream=True, **fields):
        for piece in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(piece.index, {"name": "", "arguments": ""})
            if piece.id:
                assert call["name"] == ""  # the first piece has id and name, and later ones have not
                call["name"] = piece.function.name
            call["arguments"] += piece.function.arguments
    assert sorted(calls) == list(range(len(whole.message.tool_calls)))
    for number, call in enumerate(whole.message.tool_calls):
        assert calls[number] == {"name": call.function.name, "arguments": call.function.arguments}


def test_without_parallel_calls_there_is_one(client: OpenAI, token: Any) -> None:
    fields = {"tools": [TIME], "tool_choice": "required", "max_tokens": 150, "logit_bias": {token("\n"): 100}}
    both = chat(client, **fields).choices[0].message.tool_calls
    assert len(both) > 1
    assert len({call.id for call in both}) == len(both)
    one = chat(client, **fields, parallel_tool_calls=False).choices[0]
    assert len(one.message.tool_calls) == 1
    assert one.finish_reason == "tool_calls"


def test_only_allowed_tools_are_called(client: OpenAI) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "time"}}]}
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    for seed in range(3):
        answer = chat(client, tools=[WEATHER, TIME], tool_choice=choice, seed=seed, max_tokens=300)
        assert {c.function.name for c in answer.choices[0].message.tool_calls} == {"time"}


def test_auto_answers_with_text_or_with_a_call(client: OpenAI, api_service: FakeService, only: Any) -> None:
    text = chat(client, tools=[TIME], logit_bias=only("ab")).choices[0]
    assert set(text.message.content) <= set("ab")
    assert text.message.tool_calls is None
    assert text.finish_reason == "length"
    prompt = api_service.tokenizer.decode(list(last_job(api_service).prompt_ids))
    assert '"name": "time"' in prompt


CALL = '<tool_call>\n{"name": "time", "arguments": {"zone": "a}b"}}\n</tool_call>'


@pytest.fixture
def says(api_service: FakeService) -> Iterator[Any]:
    """Makes the model say something."""

    def script(*pieces: str, reason: Any = "stop", stop: Any = 263) -> None:
        def events(job: Any) -> list[Any]:
            end = Ended(job.id, reason, 9, len(pieces), 0, 0, 0, 0.0, 0.0, 0.0, stop)
            return [*(Chunk(job.id, piece, 1) for piece in pieces), end]

        api_service.script = events

    yield script
    api_service.script = lambda _: ()


def test_text_may_go_before_calls(client: OpenAI, says: Any) -> None:
    says("Let me ", f"see.\n{CALL}", f"\n{CALL}")
    whole = chat(client, tools=[TIME]).choices[0]
    assert whole.message.content == "Let me see."
    assert [arguments_of(c) for c in whole.message.tool_calls] == [{"zone": "a}b"}] * 2
    assert whole.finish_reason == "tool_calls"
    with client.chat.completions.stream(model="tiny", messages=HELLO, tools=[TIME]) as events:
        done = events.get_final_completion().choices[0]
    assert done.message.content == "Let me see."
    assert [arguments_of(c) for c in done.message.tool_calls] == [{"zone": "a}b"}] * 2
    assert done.finish_reason == "tool_calls"


def test_a_call_that_is_cut_off_is_told_as_far_as_it_came(client: OpenAI, says: Any) -> None:
    says(CALL[:-20], reason="length", stop=None)
    choice = chat(client, tools=[TIME]).choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments == '{"zone": '


def test_none_hides_the_tools(client: OpenAI, api_service: FakeService) -> None:
    answer = chat(client, tools=[TIME], tool_choice="none")
    assert answer.choices[0].message.tool_calls is None
    assert "time" not in api_service.tokenizer.decode(list(last_job(api_service).prompt_ids))
