"""One request to an OpenAI-compatible server over HTTP/1.1, and what became of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import orjson

from twofold.loadgen.answer import Answer
from twofold.loadgen.connection import Http, Response, Sink
from twofold.loadgen.sse import EventReader

EndpointKind = Literal["chat", "completions"]
ENDPOINTS: dict[EndpointKind, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}

REFUSED = "HTTP 429"
"""The kind of error of a request that a full server did not take."""

_MESSAGE = 300  # characters of a server's complaint that are kept


class Ask(NamedTuple):
    """A request ready to be sent. prompt_tokens, max_tokens: as wanted; at: seconds after the start (None:
    when a client is free)."""

    text: str
    prompt_tokens: int
    max_tokens: int
    at: float | None = None


@dataclass(slots=True)
class Exchange:
    """What became of a request; times in seconds after the start of the load.

    intended: when it should have been sent; sent: when it was; ended: last byte or failure. pieces: when text
    came (one time without streaming). output_tokens: as usage counts them, else the number of pieces.
    error: its kind, None where the answer is complete; message: what the server or the connection said.
    """

    ask: Ask
    intended: float
    sent: float = 0.0
    ended: float = 0.0
    pieces: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int = 0
    cached_tokens: int | None = None
    counted: Literal["usage", "pieces"] = "pieces"
    finish: str | None = None
    error: str | None = None
    message: str = ""
    retry_after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How requests are put: the model's name, the endpoint, and what the server knows.

    ignore_eos: whether it knows that field, which holds answers to their length; usage: whether it knows
    `stream_options`, by which a stream ends with the numbers of tokens.
    """

    model: str
    endpoint: EndpointKind = "chat"
    stream: bool = True
    ignore_eos: bool = True
    usage: bool = True

    def body(self, ask: Ask) -> bytes:
        """The JSON body of `ask`."""
        prompt: dict[str, Any] = {"prompt": ask.text}
        if self.endpoint == "chat":
            prompt = {"messages": [{"role": "user", "content": ask.text}]}
        fields = {"model": self.model, **prompt, "max_tokens": ask.max_tokens, "temperature": 0}
        if self.ignore_eos:
            fields["ignore_eos"] = True
        if self.stream:
            fields["stream"] = True
            if self.usage:
                fields["stream_options"] = {"include_usage": True}
        return orjson.dumps(fields)


class Client:
    """Sends requests over `http`. timeout: seconds that one request may take in all; clock: seconds."""

    def __init__(self, http: Http, clock: Callable[[], float], *, timeout: float) -> None:
        self._http, self._clock, self._timeout = http, clock, timeout

    async def send(self, style: Style, ask: Ask, start: float, intended: float) -> Exchange:
        """Send `ask` now and read the answer to its end. start, intended: in the clock's seconds."""
        exchange, reading = Exchange(ask, intended - start), _Reading(style.stream, start)
        body = style.body(ask)
        exchange.sent = self._clock() - start
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._http.request("POST", ENDPOINTS[style.endpoint], body, reading.begin)
            exchange.retry_after = response.headers.get("retry-after")
            reading.finish(self._clock())
        except TimeoutError:
            exchange.error, exchange.message = "timeout", f"no end within {self._timeout:g} s"
        except ConnectionResetError as error:
            exchange.error, exchange.message = "connection lost", str(error)
        except OSError as error:
            exchange.error, exchange.message = "no connection", str(error)
        except ValueError as error:
            exchange.error, exchange.message = "malformed answer", str(error)[:_MESSAGE]
        else:
            exchange.error, exchange.message = reading.verdict() or (None, "")
        exchange.ended = self._clock() - start
        answer = reading.answer
        exchange.pieces, exchange.finish = answer.pieces, answer.finish
        exchange.prompt_tokens, exchange.cached_tokens = answer.prompt_tokens, answer.cached_tokens
        exchange.output_tokens = len(answer.pieces)
        if answer.output_tokens is not None:
            exchange.output_tokens, exchange.counted = answer.output_tokens, "usage"
        return exchange


class _Reading:
    """An answer as its bytes come in: events of a stream are read at once, anything else at the end."""

    def __init__(self, stream: bool, start: float) -> None:
        self.answer = Answer()
        self._stream, self._start = stream, start
        self._status = 0
        self._events, self._body = EventReader(), bytearray()

    def begin(self, response: Response) -> Sink:
        """What takes the body of `response`."""
        self._status = response.status
        return self._event if self._stream and response.status == 200 else self._keep

    def _event(self, piece: bytes, now: float) -> None:
        for data in self._events.feed(piece):
            self.answer.event(data, now - self._start)

    def _keep(self, piece: bytes, now: float) -> None:
        del now
        self._body += piece

    def finish(self, now: float) -> None:
        """The body is complete. ValueError where it is not what was asked for."""
        if self._status != 200:
            return
        if self._stream:
            for data in self._events.close():
                self.answer.event(data, now - self._start)
        else:
            self.answer.whole(bytes(self._body), now - self._start)

    def verdict(self) -> tuple[str, str] | None:
        """Kind of error and what was said; None where the answer is complete."""
        answer = self.answer
        if self._status != 200:
            return f"HTTP {self._status}", complaint(bytes(self._body))
        if answer.error is not None:
            return "error in the stream", answer.error[:_MESSAGE]
        if not (answer.done or answer.finish):
            return "ended early", "the answer has no end"
        return None if answer.pieces else ("no text", "the answer is complete and holds no text")


def complaint(body: bytes) -> str:
    """What an error's body says: OpenAI's message, or its beginning."""
    answer = Answer()
    with contextlib.suppress(ValueError):
        answer.whole(body, 0.0)
    return (answer.error or body.decode("utf-8", "replace"))[:_MESSAGE]
