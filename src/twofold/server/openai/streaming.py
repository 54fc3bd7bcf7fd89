"""A stream of chunks made of the events of several answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from starlette.types import Receive

from twofold.server.errors import of_failed
from twofold.server.messages import Chunk, Ended, Failed, RequestEvent
from twofold.server.openai.generation import Events, Generation, first_event
from twofold.server.openai.sse import DONE, Chunks, EventStream, failure


class Answer(Protocol):
    """What a choice writes of its events; each may be empty."""

    def begin(self, chunks: Chunks) -> bytes:
        """What comes before all else. `chunks` writes everything."""

    def add(self, chunk: Chunk) -> bytes:
        """What new text leads to."""

    def end(self, ended: Ended) -> bytes:
        """What comes last."""


async def stream(
    generation: Generation,
    answers: Sequence[Answer],
    chunks: Chunks,
    used: Callable[[Sequence[Ended]], dict[str, Any]] | None,
    receive: Receive,
) -> EventStream:
    """The response that sends `answers` (by index) as they come. used: makes the usage that is sent last.

    Waits for the first event, so that what goes wrong before it gets its own HTTP status: ApiError.
    """
    events = generation.events()
    found = await first_event(generation, events, receive)
    return EventStream(_parts(found, events, answers, chunks, used), generation.close)


async def _parts(
    found: tuple[int, RequestEvent] | None,
    events: Events,
    answers: Sequence[Answer],
    chunks: Chunks,
    used: Callable[[Sequence[Ended]], dict[str, Any]] | None,
) -> AsyncIterator[bytes]:
    part = b"".join([answer.begin(chunks) for answer in answers])
    ended: dict[int, Ended] = {}
    while found is not None:
        index, event = found
        if isinstance(event, Chunk):
            chunks.written += event.num_tokens
            part += answers[index].add(event)
        elif isinstance(event, Ended):
            ended[index] = event
            part += answers[index].end(event)
        else:
            assert isinstance(event, Failed)
            yield part + failure(of_failed(event))
            return
        if len(ended) == len(answers):
            if used is not None:
                part += chunks.usage(used([ended[i] for i in range(len(answers))]))
            yield part + DONE
            return
        if part:
            yield part
        part = b""
        found = await anext(events, None)
