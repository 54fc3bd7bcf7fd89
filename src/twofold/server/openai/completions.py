"""POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from twofold.engine.sampling_params import SamplingParams
from twofold.server.errors import FAILURES, bad
from twofold.server.messages import Chunk, Ended
from twofold.server.openai.completion_answer import CompletionAnswer
from twofold.server.openai.completion_request import CompletionRequest
from twofold.server.openai.generation import Generation, check_model, copies, new_id, note_user, room, usage
from twofold.server.openai.models import fingerprint
from twofold.server.openai.sse import STREAM, Chunks
from twofold.server.openai.streaming import stream
from twofold.server.wire import dumps

if TYPE_CHECKING:
    from twofold.server.service import Service

DEFAULT_MAX_TOKENS = 16
Ids = tuple[int, ...]


def routes(service: Service) -> APIRouter:
    """POST /v1/completions."""
    router = APIRouter(tags=["completions"])
    mark = fingerprint(service.plan)

    @router.post("/v1/completions", summary="Continue a text", responses={**FAILURES, **STREAM})
    async def create(body: CompletionRequest, request: Request) -> Response:
        """Continue texts or token ids as they are, without a chat template, whole or as a stream."""
        return await _Completion(service, body, mark).respond(request)

    return router


class _Completion:
    """One request. mark: the system's fingerprint. ApiError where it cannot be."""

    def __init__(self, service: Service, body: CompletionRequest, mark: str) -> None:
        self._service, self._body, self._mark = service, body, mark
        self._ready = check_model(service, body.model)
        body.check()
        self._id = new_id("cmpl")
        note_user(self._id, user=body.user)
        self._prompts: list[Ids] = []

    async def respond(self, request: Request) -> Response:
        """The HTTP response."""
        body = self._body
        self._prompts = await asyncio.to_thread(self._encode)
        each = body.best_of or body.choices
        jobs = [(ids, p) for ids in self._prompts for p in copies(self._params(ids), each)]
        generation = Generation(self._service, self._id, jobs, priority=body.priority or 0)
        answers = self._answers([params for _, params in jobs], each)
        if body.stream:
            chunks = Chunks(
                self._head(),
                with_usage=body.include_usage,
                prompt_tokens=sum(map(len, self._prompts)) if body.usage_everywhere else None,
            )
            used = self._usage if body.include_usage else None
            return await stream(generation, answers, chunks, used, request.receive)
        found = await generation.collect(request.receive)
        choices = [answer.choice(*got) for answer, got in zip(answers, found, strict=True)]
        if body.ranked:
            choices = self._best(choices, [chunk for chunk, _ in found], each)
        whole = {**self._head(), "choices": choices, "usage": self._usage([ended for _, ended in found])}
        return Response(dumps(whole), media_type="application/json")

    def _encode(self) -> list[Ids]:
        """Token ids of each prompt."""
        given = self._body.prompt
        several = isinstance(given, list) and not isinstance(given[0], int)
        return [self._ids(one) for one in (given if several else [given])]  # type: ignore[union-attr]

    def _ids(self, prompt: Any) -> Ids:
        tokenizer, vocab = self._service.tokenizer, self._ready.vocab_size
        ids = prompt if isinstance(prompt, list) else tokenizer.encode(prompt or "")
        if not ids:
            start = tokenizer.bos_id if tokenizer.bos_id is not None else min(tokenizer.eos_ids, default=None)
            if start is None:
                raise bad("this model has no token that begins a text: give a prompt", "prompt")
            ids = [start]
        if max(ids) >= vocab:
            raise bad(f"token id {max(ids)} is none of this model's, which are 0 to {vocab - 1}", "prompt")
        return tuple(ids)

    def _params(self, ids: Ids) -> SamplingParams:
        body = self._body
        fits = room(self._service, self._ready, len(ids), body.max_tokens, "prompt")
        wanted = body.logprobs
        return body.sampling(
            max_tokens=fits if body.max_tokens is not None else min(fits, DEFAULT_MAX_TOKENS),
            logprobs=0 if wanted is None and body.ranked else wanted,
            grammar=None,
            vocab=self._ready.vocab_size,
        )

    def _answers(self, params: list[SamplingParams], each: int) -> list[CompletionAnswer]:
        tokenizer, body = self._service.tokenizer, self._body
        echoes = [tokenizer.decode(list(ids)) if body.echo else "" for ids in self._prompts]
        return [
            CompletionAnswer(
                index,
                tokenizer.token_bytes,
                echo=echoes[index // each],
                stop_ids=p.stop_token_ids | tokenizer.eos_ids,
                logprobs=body.logprobs,
            )
            for index, p in enumerate(params)
        ]

    def _best(self, choices: list[dict[str, Any]], chunks: list[Chunk], each: int) -> list[dict[str, Any]]:
        """Of the `each` choices of every prompt the n best, best first, numbered anew."""
        best: list[dict[str, Any]] = []
        for first in range(0, len(choices), each):
            order = sorted(range(first, first + each), key=lambda i: -_mean_logprob(chunks[i]))
            best += [choices[i] for i in order[: self._body.choices]]
        return [{**choice, "index": index} for index, choice in enumerate(best)]

    def _usage(self, ended: Sequence[Ended]) -> dict[str, Any]:
        each = self._body.best_of or self._body.choices
        return usage(sum(map(len, self._prompts)), ended, each)

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._service.model_name,
            "system_fingerprint": self._mark,
        }


def _mean_logprob(chunk: Chunk) -> float:
    return sum(token.logprob for token in chunk.tokens) / max(len(chunk.tokens), 1)
