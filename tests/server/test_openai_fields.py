"""Every field that OpenAI's API knows is declared: honoured, accepted for a reason, or refused with one."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import completion_create_params, shared_params
from openai.types.chat import (
    ChatCompletionAllowedToolChoiceParam,
    ChatCompletionAllowedToolsParam,
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartRefusalParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat import completion_create_params as chat_params
from openai.types.shared_params import response_format_json_schema
from pydantic import BaseModel, ValidationError

from twofold.server.openai import messages, tools
from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.completion_request import CompletionRequest
from twofold.server.openai.fields import Accepted, Asked, Honoured, Refused, uses
from twofold.server.openai.sampling import StreamOptions

PAIRS: list[tuple[type[BaseModel], Any]] = [
    (ChatRequest, chat_params.CompletionCreateParamsStreaming),
    (CompletionRequest, completion_create_params.CompletionCreateParamsStreaming),
    (StreamOptions, ChatCompletionStreamOptionsParam),
    (messages.SystemMessage, ChatCompletionSystemMessageParam),
    (messages.SystemMessage, ChatCompletionDeveloperMessageParam),
    (messages.UserMessage, ChatCompletionUserMessageParam),
    (messages.AssistantMessage, ChatCompletionAssistantMessageParam),
    (messages.ToolMessage, ChatCompletionToolMessageParam),
    (messages.ToolCall, ChatCompletionMessageFunctionToolCallParam),
    (messages.TextPart, ChatCompletionContentPartTextParam),
    (messages.RefusalPart, ChatCompletionContentPartRefusalParam),
    (tools.FunctionTool, ChatCompletionFunctionToolParam),
    (tools.Function, shared_params.FunctionDefinition),
    (tools.NamedTool, ChatCompletionNamedToolChoiceParam),
    (tools.AllowedChoice, ChatCompletionAllowedToolChoiceParam),
    (tools.AllowedTools, ChatCompletionAllowedToolsParam),
    (tools.TextFormat, shared_params.ResponseFormatText),
    (tools.JsonObjectFormat, shared_params.ResponseFormatJSONObject),
    (tools.JsonSchemaFormat, shared_params.ResponseFormatJSONSchema),
    (tools.JsonSchema, response_format_json_schema.JSONSchema),
]
OURS = {
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "priority",
}


@pytest.mark.parametrize(("model", "theirs"), PAIRS, ids=lambda x: getattr(x, "__name__", ""))
def test_every_field_of_openais_is_declared(model: type[BaseModel], theirs: Any) -> None:
    missing = theirs.__required_keys__ | theirs.__optional_keys__
    missing -= {name for name, _ in uses(model)}
    assert not missing


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest])
def test_what_openai_does_not_know_is_marked_as_ours(model: type[BaseModel]) -> None:
    [theirs] = {id(t): t for m, t in PAIRS if m is model}.values()
    known = theirs.__required_keys__ | theirs.__optional_keys__
    assert {name for name, _ in uses(model)} - known == OURS
    for name, use in uses(model):
        assert use.note.startswith("ours: ") == (name in OURS)


@pytest.mark.parametrize("model", {m for m, _ in PAIRS}, ids=lambda m: m.__name__)
def test_what_is_not_honoured_says_why(model: type[BaseModel]) -> None:
    for name, use in uses(model):
        assert isinstance(use, Honoured | Accepted | Refused)
        assert isinstance(use, Honoured) or use.note, name


def test_a_refused_field_passes_only_where_it_asks_for_nothing() -> None:
    base = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    checked = 0
    for name, use in uses(ChatRequest):
        if not isinstance(use, Refused):
            continue
        for fine in (None, *use.asks_nothing):
            ChatRequest.model_validate({**base, name: fine})
        for bad in ("something", 1, True, {"type": "content"}, [1]):
            with pytest.raises(ValidationError, match=r"leave it out"):
                ChatRequest.model_validate({**base, name: bad})
            checked += 1
    assert checked > 50


def test_types_are_strict_and_unknown_fields_are_named() -> None:
    class Part(Asked):
        count: int

    for bad in ("1", 1.0, True, None):
        with pytest.raises(ValidationError):
            Part.model_validate({"count": bad})
    with pytest.raises(ValidationError, match="did you mean 'count'"):
        Part.model_validate({"count": 1, "coumt": 2})
