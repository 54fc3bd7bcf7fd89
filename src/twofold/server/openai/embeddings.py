"""POST /v1/embeddings: the mean of the model's last hidden states over a text.

A vector is the mean, over all tokens of its input, of what the model's last layer gives after the final norm;
it is not scaled to length one. That is what a model made for writing has to offer: it tells texts apart, but
a model that was trained to embed ranks them better.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Discriminator, Field, Tag

from twofold.server.dispatcher import Refused as NoRoom
from twofold.server.errors import FAILURES, bad, of_failed, of_refused
from twofold.server.messages import Embed, Embedded, Failed, Ready
from twofold.server.openai.completion_request import kind_of_prompt
from twofold.server.openai.fields import Accepted, Body, Honoured, Refused
from twofold.server.openai.generation import check_model, new_id, note_user, unless_gone
from twofold.server.openai.sampling import TokenId
from twofold.server.wire import dumps

if TYPE_CHECKING:
    from twofold.models.tokenizer import TextTokenizer
    from twofold.server.service import Service, Stream

MAX_INPUTS = 2048
POOLING = "mean of the last hidden states over all tokens, after the final norm; not scaled to length one"

Text = Annotated[str, Field(min_length=1)]
Ids = Annotated[list[TokenId], Field(min_length=1)]
Input = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS), Tag("texts")]
    | Annotated[Ids, Tag("token ids")]
    | Annotated[list[Ids], Field(min_length=1, max_length=MAX_INPUTS), Tag("lists of token ids")],
    Discriminator(kind_of_prompt),
]


class EmbeddingRequest(Body):
    """Texts that are to become vectors."""

    model: Annotated[str, Honoured("the name that /v1/models lists; another one is not found")]
    input: Annotated[
        Input, Honoured(f"a text, token ids, or up to {MAX_INPUTS} of either; none may be empty")
    ]
    encoding_format: Annotated[
        Literal["float", "base64"] | None, Honoured("base64 is of 32-bit floats, lowest byte first")
    ] = None
    dimensions: Annotated[Any, Refused("vectors are as long as the model is wide, and cannot be cut")] = None
    user: Annotated[str | None, Accepted("written to the server's log beside the request's id")] = None


class Embedding(BaseModel):
    """A vector. embedding: numbers, or base64 of them."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """A vector for every input, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def routes(service: Service) -> APIRouter:
    """POST /v1/embeddings."""
    router = APIRouter(tags=["embeddings"])

    @router.post(
        "/v1/embeddings",
        summary="Turn texts into vectors",
        response_model=EmbeddingList,
        responses={**FAILURES},
    )
    async def create(body: EmbeddingRequest, request: Request) -> Response:
        """The mean of the model's last hidden states over each input, after the final norm; not normalised.
        Control tokens spelled in a text are plain text."""
        ready = check_model(service, body.model)
        id = new_id("embd")
        note_user(id, user=body.user)
        prompts = await asyncio.to_thread(token_ids, body.input, service.tokenizer)
        check_room(service, ready, prompts)
        vectors = await unless_gone(request.receive, embed(service, ready, id, prompts))
        encoding = body.encoding_format or "float"
        data = [
            {"object": "embedding", "index": i, "embedding": encoded(vector, encoding)}
            for i, vector in enumerate(vectors)
        ]
        tokens = sum(len(prompt) for prompt in prompts)
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        whole = {"object": "list", "data": data, "model": service.model_name, "usage": used}
        return Response(dumps(whole), media_type="application/json")

    return router


def token_ids(given: str | list[Any], tokenizer: TextTokenizer) -> list[tuple[int, ...]]:
    """The token ids of each input, with the model's leading token before a text. ApiError 400 for ids that
    are no tokens."""
    several = isinstance(given, list) and not isinstance(given[0], int)
    top, found = tokenizer.vocab_size, []
    for number, one in enumerate(given if several else [given]):
        where = f"input[{number}]" if several else "input"
        ids = tuple(plain_ids(one, tokenizer) if isinstance(one, str) else one)
        for id in ids:
            if id >= top:
                raise bad(f"{where}: {id} is not a token of this model, whose ids end at {top - 1}", where)
        found.append(ids)
    return found


def plain_ids(text: str, tokenizer: TextTokenizer) -> list[int]:
    """Token ids of `text` as it stands: the model's leading tokens are added, and none are parsed in it."""
    return tokenizer.encode("") + tokenizer.encode(text, special=False)


def check_room(service: Service, ready: Ready, prompts: Sequence[tuple[int, ...]]) -> None:
    """ApiError 400 where an input is too long."""
    most = min(ready.max_context, ready.num_blocks * ready.block_size)
    most = min(most, service.settings.max_prompt or most)
    for number, prompt in enumerate(prompts):
        if len(prompt) > most:
            message = f"input {number} has {len(prompt)} tokens; this server takes at most {most}"
            raise bad(message, "input", "context_length_exceeded")


async def embed(
    service: Service, ready: Ready, id: str, prompts: Sequence[tuple[int, ...]]
) -> list[tuple[float, ...]]:
    """The vectors of `prompts`, of which no more are under way at once than one worker runs. ApiError where
    one is refused or fails; all others are cancelled then, and where this is cancelled."""
    running: deque[Stream] = deque()
    found: list[tuple[float, ...]] = []
    try:
        for number, prompt in enumerate(prompts):
            if len(running) == ready.max_num_seqs:
                found.append(await _vector(running.popleft()))
            running.append(service.submit(Embed(f"{id}-{number}", prompt)))
        while running:
            found.append(await _vector(running.popleft()))
    except NoRoom as refused:
        raise of_refused(refused) from None
    finally:
        for stream in running:
            stream.close()
    return found


async def _vector(stream: Stream) -> tuple[float, ...]:
    async with stream:
        _, last = await stream.collect()
    if isinstance(last, Failed):
        raise of_failed(last)
    assert isinstance(last, Embedded), last
    return last.vector


def encoded(vector: Sequence[float], encoding: Literal["float", "base64"]) -> list[float] | str:
    """A vector as it goes over the wire."""
    if encoding == "float":
        return list(vector)
    packed = array("f", vector)
    if sys.byteorder == "big":
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()
