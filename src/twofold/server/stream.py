"""Stream: the events of one request on their way to its client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from twofold.server.messages import Chunk, Embedded, Ended, Failed, RequestEvent

Last = Ended | Embedded | Failed


class Stream:
    """The events of one request: iterate over them, or `collect` them. Ends after Ended, Embedded or Failed.

    Chunks that came while the reader was busy are handed out as one. Leaving it by `async with` or `close`
    before the end cancels the request.
    """

    def __init__(self, id: str, leave: Callable[[str], None]) -> None:
        self.id = id
        self.arrived = time.monotonic()
        self._leave = leave
        self._chunks: list[Chunk] = []
        self._last: Last | None = None
        self._over = False
        self._collecting = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> RequestEvent:
        while not (self._chunks or self._last or self._over):
            await self._wait()
        if self._chunks:
            chunk = merged(self._chunks)
            self._chunks = []
            return chunk
        if self._last is None:
            raise StopAsyncIteration
        last, self._last, self._over = self._last, None, True
        return last

    async def collect(self) -> tuple[Chunk, Last]:
        """The rest at once: all chunks as one, and the last event. Wakes up once, at the end."""
        self._collecting = True
        while self._last is None:
            assert not self._over, f"stream {self.id!r} is over"
            await self._wait()
        last, self._last, self._over = self._last, None, True
        return merged(self._chunks) if self._chunks else Chunk(self.id, "", 0), last

    def close(self) -> None:
        """The client has gone: the request is cancelled now. Nothing happens where it has ended."""
        if not self._over:
            self._over = True
            self._chunks = []
            if self._last is None:
                self._leave(self.id)
            self._last = None
            self._wake()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def put(self, event: RequestEvent) -> None:
        """Take in an event."""
        if isinstance(event, Chunk):
            self._chunks.append(event)
            if self._collecting:
                return
        else:
            self._last = event
        self._wake()

    async def _wait(self) -> None:
        assert self._waiter is None, f"stream {self.id!r} has two readers"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def merged(chunks: Sequence[Chunk]) -> Chunk:
    """Consecutive chunks of one request as one."""
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(
        chunks[0].id,
        "".join([chunk.text for chunk in chunks]),
        sum([chunk.num_tokens for chunk in chunks]),
        tuple([token for chunk in chunks for token in chunk.tokens]),
    )
