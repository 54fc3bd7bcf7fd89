"""Server-sent events: what a stream writes, and how it ends with its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from twofold.server.errors import ApiError
from twofold.server.openai.generation import client_gone
from twofold.server.wire import dumps

DONE = b"data: [DONE]\n\n"
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with stream: true as server-sent events.",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
    }
}
"""The response of what may be streamed, for the OpenAPI document."""


def event(value: Any) -> bytes:
    """One event with `value` as JSON."""
    return b"data: " + dumps(value) + b"\n\n"


def failure(error: ApiError) -> bytes:
    """The event after which a stream ends without DONE."""
    return event(error.body())


class Chunks:
    """Writes the chunks of one answer. What is the same in all of them is written once.

    head: the fields beside `choices`; with_usage: the stream ends with a chunk that carries the usage;
    prompt_tokens: where all chunks carry the usage so far, of the prompt. written: tokens generated so far.
    """

    def __init__(self, head: dict[str, Any], *, with_usage: bool, prompt_tokens: int | None = None) -> None:
        self._head = b"data: " + dumps(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"
        self._prompt_tokens = prompt_tokens
        self.written = 0

    def choice(self, choice: dict[str, Any]) -> bytes:
        """A chunk with one choice."""
        prompt, written = self._prompt_tokens, self.written
        if prompt is None:
            return self._head + dumps(choice) + self._tail
        so_far = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
        return self._head + dumps(choice) + b'],"usage":' + dumps(so_far) + b"}\n\n"

    def writer(self, choice: Callable[[str], dict[str, Any]]) -> Callable[[str], bytes]:
        """As `choice` of what it makes of a text, for choices in which only that text changes: the rest is
        turned into JSON once."""
        if self._prompt_tokens is not None:
            return lambda text: self.choice(choice(text))
        mark = "\0"
        before, after = self.choice(choice(mark)).split(dumps(mark))
        return lambda text: before + dumps(text) + after

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The chunk without choices."""
        return self._head + b'],"usage":' + dumps(usage) + b"}\n\n"


class EventStream(Response):
    """Sends `parts`, one write each. Where the client goes before the end, `on_gone` is called at once."""

    media_type = "text/event-stream"

    def __init__(self, parts: AsyncIterator[bytes], on_gone: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._parts, self._on_gone = parts, on_gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        watch = asyncio.create_task(self._watch(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._parts) as parts:  # type: ignore[type-var]
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watch.cancel()
            self._on_gone()

    async def _watch(self, receive: Receive) -> None:
        await client_gone(receive)
        self._on_gone()
