"""A small OpenAI-compatible server whose bytes and pauses are laid down beforehand, for tests of the load
generator and for its comparison with others.

    python -m tests.loadgen.fake_server --first 0.05 --gap 0.01

It answers every request alone: the first token after `first` seconds, each further one `gap` seconds later,
by an absolute schedule, so that pauses do not add up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.waiting import PATIENCE

Body = dict[str, Any]


@dataclass
class Reply:
    """An answer: status, headers, and (seconds after the request, bytes) in order.

    cut: the connection is closed before the end of the answer. hold: it begins once the server has so many
    bodies.
    """

    pieces: list[tuple[float, bytes]]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hold: int = 0


def event(value: Any) -> bytes:
    """One server-sent event of JSON."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(path: str, text: str | None = None, finish: str | None = None) -> bytes:
    """A chunk of a stream of that endpoint."""
    choice: Body = {"index": 0, "finish_reason": finish}
    if "chat" in path:
        choice["delta"] = {} if text is None else {"content": text}
    else:
        choice["text"] = text or ""
    return event({"id": "x", "object": "chunk", "model": "fake", "choices": [choice]})


def words_of(body: Body) -> int:
    """Tokens of a prompt: its words."""
    text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
    parts = [text] if isinstance(text, str) else [part["text"] for part in text]
    return sum(len(part.split()) for part in parts)


def usage_of(body: Body, tokens: int) -> Body:
    """The usage of an answer of that many tokens."""
    return {"prompt_tokens": words_of(body), "completion_tokens": tokens, "total_tokens": 0}


def steady(first: float = 0.0, gap: float = 0.0) -> Callable[[str, Body], Reply]:
    """Every request is answered in full: a token per chunk, at its own pace."""

    def reply(path: str, body: Body) -> Reply:
        count = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        usage = usage_of(body, count)
        if not body.get("stream"):
            choice = {"index": 0, "finish_reason": "length", "text": "a" * count}
            choice |= {"message": {"role": "assistant", "content": "a" * count}}
            whole = json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode()
            return Reply([(first + gap * (count - 1), whole)], headers={"Content-Type": "application/json"})
        pieces = [(first + gap * i, chunk(path, " a")) for i in range(count)]
        end = chunk(path, finish="length")
        if (body.get("stream_options") or {}).get("include_usage"):
            end += event({"id": "x", "model": "fake", "choices": [], "usage": usage})
        pieces.append((first + gap * (count - 1), end + b"data: [DONE]\n\n"))
        return Reply(pieces)

    return reply


class FakeServer:
    """Serves on a free port of loopback in a thread of its own; a context manager that ends it.

    reply: what is answered to a POST of (path, body). documents: what other paths answer, besides /v1/models;
    None where /tokenize does not exist. close_after: answers after which a connection is closed without a
    word. bodies, heads, connections: what came in: bodies of completions, headers of all requests, how many
    connections.
    """

    def __init__(
        self,
        reply: Callable[[str, Body], Reply] | None = None,
        documents: dict[str, Any] | None = None,
        port: int = 0,
        close_after: int | None = None,
    ) -> None:
        self.reply = reply or steady()
        self.documents = {"/v1/models": {"object": "list", "data": [{"id": "fake", "object": "model"}]}}
        self.documents |= documents or {}
        self.bodies: list[Body] = []
        self.heads: list[dict[str, str]] = []
        self.connections = 0
        self.port = port
        self._close_after = close_after
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answers = 0
        try:
            async for method, path, head, body in _requests(reader):
                self.heads.append(head)
                answers += 1
                if not await self._answer(method, path, body, writer) or answers == self._close_after:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, method: str, path: str, raw: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays open."""
        arrived = self._loop.time()
        body = json.loads(raw) if raw else {}
        if path == "/tokenize" and path not in self.documents:
            found: Any = {"count": words_of(body)}
        else:
            found = self.documents.get(path)
        if method == "POST" and path.endswith("completions"):
            self.bodies.append(body)
            answer = self.reply(path, body)
        elif found is None:
            answer = Reply([(0.0, b'{"error": {"message": "not found"}}')], status=404)
        else:
            answer = Reply([(0.0, json.dumps(found).encode())])
        while len(self.bodies) < answer.hold:
            await asyncio.sleep(0.002)
        headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"} | answer.headers
        lines = [f"HTTP/1.1 {answer.status} X", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        for after, data in answer.pieces:
            await asyncio.sleep(max(0.0, arrived + after - self._loop.time()))
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
        if not answer.cut:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return not answer.cut


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, str, dict[str, str], bytes]]:
    """(method, path, headers, body) of each request of a connection."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        yield method, path, headers, body


def main() -> None:
    """Serve until the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=float, default=0.05)
    parser.add_argument("--gap", type=float, default=0.01)
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    documents = {"/health": {}}
    with FakeServer(steady(args.first, args.gap), documents, args.port) as server:
        print(server.url, flush=True)
        input()


if __name__ == "__main__":
    main()
