"""What the documentation says of the API: every field of every request, as it is declared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.completion_request import CompletionRequest
from twofold.server.openai.embeddings import EmbeddingRequest
from twofold.server.openai.fields import Accepted, Asked, Honoured, Refused, Use, uses
from twofold.server.openai.responses_request import ResponseRequest
from twofold.server.openai.tokens import DetokenizeRequest, TokenizeRequest

REQUESTS: dict[str, type[Asked]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponseRequest,
    "/v1/embeddings": EmbeddingRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
"""The body of POST to each path."""

_WORDS = {Honoured: "honoured", Accepted: "accepted", Refused: "refused"}
Row = tuple[str, str, str]


def field_rows(model: type[Asked]) -> list[Row]:
    """(field, what becomes of it, how or why) of a request: what is honoured first, what is refused last."""
    order = list(_WORDS)
    found = sorted(uses(model), key=lambda item: order.index(type(item[1])))
    return [(f"`{name}`", _WORDS[type(use)], _told(use)) for name, use in found]


def parts(path: str) -> list[type[Asked]]:
    """The models within the body of POST to `path`, in the order in which they come up."""
    found: dict[type[Asked], None] = {}
    _collect(REQUESTS[path], found)
    return list(found)[1:]


def title(model: type[Asked]) -> str:
    """What a part of a request is, in words."""
    return " ".join((model.__doc__ or "").split()).rstrip(".")


def _told(use: Use) -> str:
    allowed = getattr(use, "asks_nothing", ())
    if not allowed:
        return use.note
    values = " or ".join(f"`{json.dumps(value)}`" for value in allowed)
    return f"{use.note}; {values} is fine"


def _collect(model: type[Asked], found: dict[type[Asked], None]) -> None:
    if model in found:
        return
    found[model] = None
    for field in model.model_fields.values():
        for inner in _within(field.annotation):
            _collect(inner, found)


def _within(annotation: Any) -> Iterator[type[Asked]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Asked):
        yield annotation
    for part in get_args(annotation):
        yield from _within(part)
