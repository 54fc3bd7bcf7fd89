"""POST /tokenize and /detokenize: text to token ids and back, in the shapes that vLLM gave them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, Field

from twofold.server.errors import FAILURES, bad
from twofold.server.openai.chat_request import ChatRequest
from twofold.server.openai.fields import Body, Honoured, Refused
from twofold.server.openai.generation import check_model, check_name
from twofold.server.openai.logprobs import token_text
from twofold.server.openai.messages import Message
from twofold.server.openai.prompts import chat_ids
from twofold.server.openai.sampling import TokenId
from twofold.server.openai.tools import MAX_TOOLS, Tool
from twofold.server.wire import dumps

if TYPE_CHECKING:
    from twofold.server.service import Service

_MODEL = Honoured("the name that /v1/models lists, or nothing; another one is not found")
_TEMPLATE = "conversations are written by the model's own chat template"


class TokenizeRequest(Body):
    """A text, or a conversation."""

    model: Annotated[str | None, _MODEL] = None
    prompt: Annotated[str | None, Honoured("control tokens in it are parsed, as in /v1/completions")] = None
    messages: Annotated[
        Annotated[list[Message], Field(min_length=1)] | None,
        Honoured("tokenized as /v1/chat/completions does it; either this or prompt"),
    ] = None
    tools: Annotated[
        list[Tool] | None, Field(max_length=MAX_TOOLS), Honoured("described as in a chat; with messages only")
    ] = None
    add_special_tokens: Annotated[
        bool | None, Honoured("whether the model's leading token is added; with prompt only, true by default")
    ] = None
    return_token_strs: Annotated[
        bool | None,
        Honoured("the text of each token beside its id; part of a character is shown by its bytes, as \\xe2"),
    ] = None
    add_generation_prompt: Annotated[
        Any, Refused("a conversation ends where the answer begins, as in a chat", (True,))
    ] = None
    continue_final_message: Annotated[Any, Refused("the last message is always closed", (False,))] = None
    chat_template: Annotated[Any, Refused(_TEMPLATE)] = None
    chat_template_kwargs: Annotated[Any, Refused(_TEMPLATE, ({},))] = None
    mm_processor_kwargs: Annotated[Any, Refused("this server reads text only", ({},))] = None

    def check(self) -> None:
        """ApiError for fields that do not go together."""
        if (self.prompt is None) == (self.messages is None):
            raise bad("give either prompt or messages", "prompt")
        if self.messages is None and self.tools is not None:
            raise bad("tools go with messages", "tools")
        if self.messages is not None and self.add_special_tokens is not None:
            raise bad("add_special_tokens goes with prompt; a chat decides itself", "add_special_tokens")


class Tokens(BaseModel):
    """count: how many; max_model_len: tokens of prompt and answer together that the model takes."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    """Token ids."""

    model: Annotated[str | None, _MODEL] = None
    tokens: Annotated[list[TokenId], Honoured()]


class Detokenized(BaseModel):
    """Their text, control tokens included; bytes that are no characters are shown as U+FFFD."""

    prompt: str


def routes(service: Service) -> APIRouter:
    """POST /tokenize and /detokenize."""
    router = APIRouter(tags=["tokens"])

    @router.post("/tokenize", summary="Text to token ids", response_model=Tokens, responses={**FAILURES})
    async def tokenize(body: TokenizeRequest) -> Response:
        """The token ids of a text or a conversation, as the model would get them."""
        ready = check_model(service, service.model_name if body.model is None else body.model)
        body.check()
        ids = await asyncio.to_thread(_ids, service, body)
        strings = None
        if body.return_token_strs:
            table = service.tokenizer.token_bytes
            strings = [token_text(table[id]) for id in ids]
        length = min(ready.max_context, ready.num_blocks * ready.block_size)
        whole = {"count": len(ids), "max_model_len": length, "tokens": ids, "token_strs": strings}
        return Response(dumps(whole), media_type="application/json")

    @router.post(
        "/detokenize", summary="Token ids to text", response_model=Detokenized, responses={**FAILURES}
    )
    async def detokenize(body: DetokenizeRequest) -> Response:
        """The text of token ids."""
        if body.model is not None:
            check_name(service, body.model)
        top = service.tokenizer.vocab_size
        for number, id in enumerate(body.tokens):
            if id >= top:
                raise bad(
                    f"{id} is not a token of this model, whose ids end at {top - 1}", f"tokens[{number}]"
                )
        text = await asyncio.to_thread(service.tokenizer.decode, body.tokens, skip_special=False)
        return Response(dumps({"prompt": text}), media_type="application/json")

    return router


def _ids(service: Service, body: TokenizeRequest) -> list[int]:
    if body.prompt is not None:
        return service.tokenizer.encode(body.prompt, leading=body.add_special_tokens is not False)
    tools = [tool.model_dump() for tool in body.tools or ()]
    chat = {"model": service.model_name, "messages": [], "tools": tools or None}
    request = ChatRequest.model_validate(chat | {"messages": body.messages})
    return chat_ids(request, service.tokenizer)
