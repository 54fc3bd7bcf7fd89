"""POST /v1/responses with OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response
from tests.server.fakes import FakeService, fake_service, served
from tests.waiting import PATIENCE, until

from twofold.server.messages import Chunk, Failed, Job, RequestEvent

SCHEMA = {
    "type": "object",
    "properties": {"even": {"type": "boolean"}},
    "required": ["even"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "description": "Adds.",
    "parameters": {
        "type": "object",
        "properties": {"on": {"type": "boolean"}},
        "required": ["on"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def service() -> FakeService:
    return fake_service()


@pytest.fixture(scope="module")
def url(service: FakeService) -> Iterator[str]:
    with served(service) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as found:
        yield found


def ask(client: OpenAI, **fields: Any) -> Response:
    given = {"model": "tiny", "input": "the 12", "max_output_tokens": 6, "temperature": 0.0, **fields}
    found = client.responses.create(**given)
    assert isinstance(found, Response)
    return found


def events(client: OpenAI, **fields: Any) -> list[Any]:
    given = {"model": "tiny", "input": "the 12", "max_output_tokens": 6, "temperature": 0.0, **fields}
    return list(client.responses.create(**given, stream=True))


def test_an_answer_in_the_shape_of_the_library(client: OpenAI, service: FakeService) -> None:
    found = ask(client, instructions="Be kind.", metadata={"a": "b"}, user="me", store=False)
    assert (found.object, found.status, found.model) == ("response", "incomplete", "tiny")
    assert found.incomplete_details is not None
    assert found.incomplete_details.reason == "max_output_tokens"
    assert found.usage is not None
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the 12"}]
    assert found.usage.input_tokens == len(service.tokenizer.chat_ids(prompt))
    assert (found.usage.output_tokens, found.usage.total_tokens) == (6, found.usage.input_tokens + 6)
    assert (found.metadata, found.instructions, found.max_output_tokens) == ({"a": "b"}, "Be kind.", 6)
    assert (found.temperature, found.top_p, found.tools, found.tool_choice) == (0, 1, [], "auto")
    assert found.model_extra is not None
    assert found.model_extra["store"] is False
    [message] = found.output
    assert message.type == "message"
    assert message.status == "incomplete"
    assert len(found.output_text) > 0


def test_the_same_text_as_a_chat_whole_and_streamed(client: OpenAI) -> None:
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "the 12"}],
        max_completion_tokens=6,
        temperature=0,
    )
    whole = ask(client).output_text
    streamed = "".join(e.delta for e in events(client) if e.type == "response.output_text.delta")
    assert whole == streamed == chat.choices[0].message.content


def test_the_events_of_a_text_come_in_order(client: OpenAI) -> None:
    found = events(client, top_logprobs=2)
    assert [e.sequence_number for e in found] == list(range(len(found)))
    kinds = [e.type for e in found]
    deltas = [k for k in kinds if k == "response.output_text.delta"]
    assert len(deltas) >= 1
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert (found[0].response.status, found[0].response.output) == ("in_progress", [])
    ids = {e.item_id for e in found if hasattr(e, "item_id")} | {found[2].item.id, found[-2].item.id}
    assert len(ids) == 1
    done, last = found[-4], found[-1].response
    assert done.text == last.output_text == found[-3].part.text
    assert len(done.logprobs) == last.usage.output_tokens
    assert all(len(p.top_logprobs) == 2 for p in last.output[0].content[0].logprobs)
    text = b"".join(bytes(p.bytes) for p in last.output[0].content[0].logprobs)
    assert text.decode(errors="replace") == done.text


def test_log_probabilities_are_shown_where_asked_for(client: OpenAI) -> None:
    def logprobs(**fields: Any) -> list[Any]:
        content = ask(client, **fields).output[0].content[0]  # type: ignore[union-attr]
        return content.logprobs or []  # type: ignore[union-attr]

    assert logprobs() == []
    [first, *_] = logprobs(include=["message.output_text.logprobs"])
    assert first.logprob <= 0
    assert first.top_logprobs == []


def test_the_format_is_followed(client: OpenAI) -> None:
    form = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
    found = ask(client, text={"format": form}, max_output_tokens=60)
    assert found.status == "completed"
    assert set(json.loads(found.output_text)) == {"even"}
    assert found.text is not None
    assert found.text.format is not None
    assert found.text.format.type == "json_schema"


def test_a_function_is_called_whole_and_streamed(client: OpenAI) -> None:
    wanted: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "add"}}
    found = ask(client, **wanted, max_output_tokens=120)
    [call] = found.output
    assert call.type == "function_call"
    assert (call.name, call.status, found.status) == ("add", "completed", "completed")
    assert set(json.loads(call.arguments)) == {"on"}
    streamed = events(client, **wanted, max_output_tokens=120)
    kinds = list(dict.fromkeys(e.type for e in streamed))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    deltas = "".join(e.delta for e in streamed if e.type.endswith("arguments.delta"))
    assert deltas == call.arguments == streamed[-3].arguments


def test_a_conversation_with_calls_and_what_was_returned_goes_back_in(
    client: OpenAI, service: FakeService
) -> None:
    first = ask(client, tools=[TOOL], tool_choice="required", max_output_tokens=120)
    call = first.output[0]
    assert call.type == "function_call"
    history = [
        {"role": "user", "content": [{"type": "input_text", "text": "the"}]},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "12"},
    ]
    assert ask(client, input=history, tools=[TOOL], tool_choice="none").status == "incomplete"
    said = service.tokenizer.decode(list(service.jobs[-1].prompt_ids), skip_special=False)
    assert said.index("the") < said.index('"name": "add"') < said.index('"content": "12"')
    text = ask(client)
    again = [*history, *[item.model_dump(exclude_none=True) for item in text.output]]
    assert ask(client, input=again).object == "response"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "reasoning", "id": "x", "summary": []}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0].call_id"),
        ({"input": "the " * 4000}, "input"),
        ({"max_output_tokens": 10**6}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "x"}}}}, "text.format"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"extra_body": {"seed": 1}}, "seed"),
        ({"extra_body": {"stream_options": {}}}, "stream_options"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    assert refused.value.param == param


def test_failures_before_and_within_a_stream(client: OpenAI, service: FakeService) -> None:
    def lost(job: Job) -> list[RequestEvent]:
        return [Failed(job.id, "lost", "the worker of this request was lost")]

    def later(job: Job) -> list[RequestEvent]:
        return [Chunk(job.id, "the", 1), *lost(job)]

    try:
        service.script = lost
        with pytest.raises(openai.InternalServerError) as refused:
            events(client)
        assert refused.value.status_code == 503
        service.script = later
        last = events(client)[-1]
        with pytest.raises(openai.InternalServerError):
            ask(client)
    finally:
        service.script = lambda _: ()
    assert (last.type, last.response.status) == ("response.failed", "failed")
    assert last.response.error.code == "server_error"
    assert last.response.output[0].status == "incomplete"
    assert last.response.output_text == "the"


def test_a_client_that_leaves_frees_its_request(client: OpenAI, service: FakeService) -> None:
    service.hold()
    try:
        with client.responses.create(
            model="tiny", input="the", stream=True, max_output_tokens=1500
        ) as stream:
            for event in stream:
                if event.type == "response.created":
                    service.allow(9)
                if event.type == "response.output_text.delta":
                    break
        until(lambda: service.jobs[-1].id in service.left)
    finally:
        service.go()
