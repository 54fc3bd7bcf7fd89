"""POST /v1/responses: the same answers as chat completions, in the shapes of OpenAI's Responses API."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from twofold.server.errors import FAILURES, ApiError, of_failed
from twofold.server.messages import Chunk, Ended, Failed, RequestEvent
from twofold.server.openai.calls import CallReader, Piece
from twofold.server.openai.generation import (
    Events,
    Generation,
    check_model,
    finish_reason,
    first_event,
    note_user,
    room,
)
from twofold.server.openai.grammar import grammar_of
from twofold.server.openai.logprobs import TokenLog, chat_logprobs
from twofold.server.openai.prompts import chat_ids
from twofold.server.openai.responses_events import Event, Growing
from twofold.server.openai.responses_objects import ResponseObject
from twofold.server.openai.responses_request import ResponseRequest
from twofold.server.openai.sse import EventStream
from twofold.server.wire import dumps

if TYPE_CHECKING:
    from twofold.engine.sampling_params import SamplingParams
    from twofold.server.openai.chat_request import ChatRequest
    from twofold.server.service import Service

_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "logprobs": "top_logprobs",
}
"""Fields of a chat by their names here."""


def routes(service: Service) -> APIRouter:
    """POST /v1/responses."""
    router = APIRouter(tags=["responses"])

    @router.post(
        "/v1/responses",
        summary="Answer a text or a conversation",
        responses={
            200: {
                "model": ResponseObject,
                "description": "The response, or its events where `stream` is true.",
                "content": {"text/event-stream": {}},
            },
            **FAILURES,
        },
        response_class=Response,
    )
    async def create(body: ResponseRequest, request: Request) -> Response:
        """Answer with text or function calls, whole or as a stream of events. Nothing is stored."""
        return await Responding(service, body, request).answer()

    return router


class Responding:
    """One request and its answer. ApiError where it cannot be."""

    def __init__(self, service: Service, body: ResponseRequest, request: Request) -> None:
        self._service, self._body, self._request = service, body, request
        self._id = f"resp_{uuid.uuid4().hex}"
        self._growing = Growing(_response(self._id, service.model_name, body))
        self._calls: CallReader | None = None
        self._log: TokenLog | None = None

    async def answer(self) -> Response:
        """The HTTP response."""
        service, body = self._service, self._body
        ready = check_model(service, body.model)
        note_user(self._id, user=body.user, safety_identifier=body.safety_identifier)
        with _own_names():
            chat = body.chat()
            chat.check()
            grammar, prompt = await asyncio.to_thread(_prepare, chat, service)
            params = chat.sampling(
                max_tokens=room(service, ready, len(prompt), body.max_output_tokens, "input"),
                logprobs=body.num_logprobs,
                grammar=grammar,
                vocab=ready.vocab_size,
            )
        self._readers(chat, params)
        generation = Generation(service, self._id, [(prompt, params)])
        if body.stream:
            events = generation.events()
            first = await first_event(generation, events, self._request.receive)
            return EventStream(self._parts(first, events), generation.close)
        [(chunk, ended)] = await generation.collect(self._request.receive)
        self._add(chunk, more=False)
        self._end(ended)
        return Response(dumps(self._growing.response), media_type="application/json")

    def _readers(self, chat: ChatRequest, params: SamplingParams) -> None:
        tokenizer = self._service.tokenizer
        if chat.calling != "none":
            self._calls = CallReader()
        if self._body.num_logprobs is not None:
            self._log = TokenLog(tokenizer.token_bytes, params.stop_token_ids | tokenizer.eos_ids)

    async def _parts(self, found: tuple[int, RequestEvent] | None, events: Events) -> AsyncIterator[bytes]:
        yield _written(self._growing.begin())
        while found is not None:  # it is None once the client has gone
            event = found[1]
            if isinstance(event, Chunk):
                if part := _written(self._add(event)):
                    yield part
            elif isinstance(event, Failed):
                yield _written(self._growing.fail(of_failed(event).detail))
                return
            else:
                assert isinstance(event, Ended)
                yield _written(self._end(event))
                return
            found = await anext(events, None)

    def _add(self, chunk: Chunk, *, more: bool = True) -> list[Event]:
        logprobs = [] if self._log is None else self._shown(self._log.add(chunk, more=more))
        return self._pieces(self._read(chunk.text), logprobs)

    def _end(self, ended: Ended) -> list[Event]:
        logprobs = [] if self._log is None else self._shown(self._log.end(ended))
        events = self._pieces([] if self._calls is None else self._calls.close(), logprobs)
        cached = min(ended.cached_tokens, ended.prompt_tokens)
        used = {
            "input_tokens": ended.prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": ended.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": ended.prompt_tokens + ended.output_tokens,
        }
        return events + self._growing.end(used, cut_short=finish_reason(ended) == "length")

    def _read(self, text: str) -> list[Piece]:
        if self._calls is None:
            return [Piece("text", text)] if text else []
        return self._calls.add(text)

    def _pieces(self, pieces: list[Piece], logprobs: list[dict[str, Any]]) -> list[Event]:
        """`logprobs` go with the first text; those of calls are not shown."""
        events: list[Event] = []
        for piece in pieces:
            if piece.kind == "text":
                events += self._growing.text(piece.text, logprobs)
                logprobs = []
            elif piece.kind == "start":
                events += self._growing.call(piece.id, piece.text)
            else:
                events += self._growing.arguments(piece.text)
        if logprobs and (self._calls is None or not self._calls.num_calls):
            events += self._growing.text("", logprobs)
        return events

    def _shown(self, tokens: list[Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = chat_logprobs(tokens, self._service.tokenizer.token_bytes)["content"]
        return found


def _prepare(chat: ChatRequest, service: Service) -> tuple[str | None, tuple[int, ...]]:
    """What may take long: the grammar and the prompt."""
    return grammar_of(chat), tuple(chat_ids(chat, service.tokenizer))


def _written(events: list[Event]) -> bytes:
    return b"".join([b"event: %b\ndata: %b\n\n" % (e["type"].encode(), dumps(e)) for e in events])


@contextmanager
def _own_names() -> Iterator[None]:
    """Errors that name fields of a chat name those of this API instead."""
    try:
        yield
    except ApiError as error:
        for theirs, ours in _NAMES.items():
            if error.param is not None and error.param.startswith(theirs):
                error.param = ours + error.param.removeprefix(theirs)
            if error.detail.startswith(theirs):
                error.detail = ours + error.detail.removeprefix(theirs)
        raise


def _response(id: str, model: str, body: ResponseRequest) -> dict[str, Any]:
    """The response object before anything is put out."""

    def given(part: Any) -> Any:
        return part.model_dump(by_alias=True, exclude_none=True)

    form = body.text.format if body.text is not None else None
    choice = body.tool_choice
    shown = ResponseObject(
        id=id,
        created_at=int(time.time()),
        status="in_progress",
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        temperature=1.0 if body.temperature is None else body.temperature,
        text={"format": {"type": "text"} if form is None else given(form)},
        tool_choice=(choice or "auto") if choice is None or isinstance(choice, str) else given(choice),
        tools=[{"parameters": None, "strict": True, **given(tool)} for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
    )
    return shown.model_dump()
