"""The OpenAPI document: what the routes declare, with examples that work as they stand on this server."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from twofold.server.errors import FAILURES
from twofold.server.limits import OPEN_PATHS

ABOUT = """\
OpenAI's API, and what belongs to a server. Every field of a request is honoured, or accepted where it changes
no answer, or refused with an error that names it; none is ignored. Failures are OpenAI's error object."""
TAGS = {
    "models": "What is served.",
    "chat": "Conversations.",
    "completions": "Texts without a chat template.",
    "responses": "OpenAI's newer form of conversations.",
    "embeddings": "Vectors of texts.",
    "tokens": "Text to token ids and back.",
    "server": "How the server is.",
}

_QUESTION = {"role": "user", "content": "What is the capital of France?"}
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_WEATHER = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": _SCHEMA,
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "ChatRequest": {
        "question": {"messages": [_QUESTION], "max_completion_tokens": 32},
        "stream": {
            "messages": [{"role": "system", "content": "Be brief."}, _QUESTION],
            "max_completion_tokens": 32,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        "structured": {
            "messages": [_QUESTION],
            "max_completion_tokens": 64,
            "response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": _SCHEMA}},
        },
        "tool": {
            "messages": [{"role": "user", "content": "Is it raining in Oslo?"}],
            "max_completion_tokens": 64,
            "tools": [{"type": "function", "function": _WEATHER}],
        },
    },
    "CompletionRequest": {
        "text": {"prompt": "The capital of France is", "max_tokens": 16, "temperature": 0},
        "two texts": {"prompt": ["One, two,", "A, b,"], "max_tokens": 8, "logprobs": 1, "seed": 7},
    },
    "ResponseRequest": {
        "question": {"input": "What is the capital of France?", "max_output_tokens": 32},
        "stream": {
            "instructions": "Be brief.",
            "input": [_QUESTION],
            "max_output_tokens": 32,
            "stream": True,
        },
    },
    "EmbeddingRequest": {"texts": {"input": ["a river", "a stream"]}},
    "TokenizeRequest": {
        "text": {"prompt": "Hello", "return_token_strs": True},
        "conversation": {"messages": [_QUESTION]},
    },
    "DetokenizeRequest": {"ids": {"tokens": [1, 2, 3]}},
}
"""Requests by the name of their schema, without the model."""


def document(app: FastAPI, model: str, *, needs_key: bool) -> dict[str, Any]:
    """The document of `app`. model: what clients call the one that is served; needs_key: an API key is
    asked for."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=ABOUT,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    for path, operations in found["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)  # the framework's own shape of what is a 400 here
            if needs_key and path not in OPEN_PATHS:
                responses["401"] = deepcopy(FAILURES[401])
                operation["security"] = [{"key": []}]
            elif not needs_key:
                responses.pop("401", None)
            _give_examples(operation, model)
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for name in EXAMPLES:
        _name_model(schemas[name]["properties"]["model"], model)
    if needs_key:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return found


def _give_examples(operation: dict[str, Any], model: str) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        name = content["schema"]["$ref"].rpartition("/")[2]
        content["examples"] = {
            title: {"value": {"model": model, **value}} for title, value in EXAMPLES[name].items()
        }


def _name_model(field: dict[str, Any], model: str) -> None:
    """There is one model, whose name is the only one that is found."""
    nullable = "anyOf" in field
    for key in ("anyOf", "type"):
        field.pop(key, None)
    field["enum"] = [model, None] if nullable else [model]
