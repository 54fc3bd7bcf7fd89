"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from twofold.engine.sampling_params import SamplingParams
from twofold.server.errors import FAILURES
from twofold.server.messages import Ended, Ready
from twofold.server.openai.chat_answer import ChatAnswer
from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.generation import Generation, check_model, copies, new_id, note_user, room, usage
from twofold.server.openai.grammar import grammar_of
from twofold.server.openai.models import fingerprint
from twofold.server.openai.prompts import chat_ids
from twofold.server.openai.sse import STREAM, Chunks
from twofold.server.openai.streaming import stream
from twofold.server.wire import dumps

if TYPE_CHECKING:
    from twofold.server.service import Service


def routes(service: Service) -> APIRouter:
    """POST /v1/chat/completions."""
    router = APIRouter(tags=["chat"])
    mark = fingerprint(service.plan)

    @router.post("/v1/chat/completions", summary="Continue a conversation", responses={**FAILURES, **STREAM})
    async def create(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation with text or calls of tools, whole or as a stream."""
        return await _Chat(service, body, mark).respond(request)

    return router


class _Chat:
    """One request. mark: the system's fingerprint. ApiError where it cannot be."""

    def __init__(self, service: Service, body: ChatRequest, mark: str) -> None:
        self._service, self._body, self._mark = service, body, mark
        self._ready = check_model(service, body.model)
        body.check()
        self._id = new_id("chatcmpl")
        note_user(self._id, user=body.user, safety_identifier=body.safety_identifier)
        self._prompt_tokens = 0

    async def respond(self, request: Request) -> Response:
        """The HTTP response."""
        body = self._body
        grammar, prompt = await asyncio.to_thread(self._prepare)
        self._prompt_tokens = len(prompt)
        params = self._params(self._ready, grammar)
        prompts = [(prompt, each) for each in copies(params, body.choices)]
        generation = Generation(self._service, self._id, prompts, priority=body.priority or 0)
        answers = [self._answer(index, params) for index in range(body.choices)]
        if body.stream:
            chunks = Chunks(
                self._head("chat.completion.chunk"),
                with_usage=body.include_usage,
                prompt_tokens=self._prompt_tokens if body.usage_everywhere else None,
            )
            used = self._usage if body.include_usage else None
            return await stream(generation, answers, chunks, used, request.receive)
        found = await generation.collect(request.receive)
        whole = {
            **self._head("chat.completion"),
            "choices": [answer.choice(*each) for answer, each in zip(answers, found, strict=True)],
            "usage": self._usage([ended for _, ended in found]),
        }
        if body.metadata is not None:
            whole["metadata"] = body.metadata
        return Response(dumps(whole), media_type="application/json")

    def _prepare(self) -> tuple[str | None, tuple[int, ...]]:
        """What may take long: the grammar and the prompt."""
        return grammar_of(self._body), tuple(chat_ids(self._body, self._service.tokenizer))

    def _params(self, ready: Ready, grammar: str | None) -> SamplingParams:
        body = self._body
        asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        return body.sampling(
            max_tokens=room(self._service, ready, self._prompt_tokens, asked, "messages"),
            logprobs=body.num_logprobs,
            grammar=grammar,
            vocab=ready.vocab_size,
        )

    def _answer(self, index: int, params: SamplingParams) -> ChatAnswer:
        tokenizer = self._service.tokenizer
        return ChatAnswer(
            index,
            tokenizer.token_bytes,
            reads_calls=self._body.calling != "none",
            stop_ids=params.stop_token_ids | tokenizer.eos_ids,
            logprobs=self._body.logprobs is True,
        )

    def _usage(self, ended: Sequence[Ended]) -> dict[str, Any]:
        return usage(self._prompt_tokens, ended, self._body.choices)

    def _head(self, kind: str) -> dict[str, Any]:
        head = {
            "id": self._id,
            "object": kind,
            "created": int(time.time()),
            "model": self._service.model_name,
            "system_fingerprint": self._mark,
        }
        return head if self._body.service_tier is None else {**head, "service_tier": "default"}
