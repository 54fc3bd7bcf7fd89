"""Requests over real sockets to a server whose every byte is laid down."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from tests.loadgen.fake_server import Body, FakeServer, Reply, chunk, event, steady, usage_of
from tests.waiting import PATIENCE

from twofold.loadgen.client import Ask, Client, Exchange, Style
from twofold.loadgen.connection import Http, is_local
from twofold.loadgen.drive import WallClock

T = TypeVar("T")
ASK = Ask("two words", 2, 3)
STYLE = Style(model="fake")


def use(url: str, work: Callable[[Http], Awaitable[T]], headers: dict[str, str] | None = None) -> T:
    async def main() -> T:
        async with Http(url, time.perf_counter, headers) as http:
            return await work(http)

    return asyncio.run(main())


def send(
    url: str, *asks: Ask, style: Style = STYLE, timeout: float = PATIENCE, **rest: Any
) -> list[Exchange]:
    """Each answer in turn, over the same connections."""

    async def work(http: Http) -> list[Exchange]:
        client = Client(http, time.perf_counter, timeout=timeout)
        start = time.perf_counter()
        return [await client.send(style, ask, start, start) for ask in asks]

    return use(url, work, **rest)


def answered(
    reply: Callable[[str, Body], Reply], style: Style = STYLE, timeout: float = PATIENCE
) -> Exchange:
    with FakeServer(reply) as server:
        return send(server.url, ASK, style=style, timeout=timeout)[0]


def pieces(*data: bytes, **rest: Any) -> Callable[[str, Body], Reply]:
    return lambda path, body: Reply([(0.0, piece) for piece in data], **rest)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_a_streamed_answer(endpoint: Any) -> None:
    with FakeServer(steady()) as server:
        (x,) = send(server.url, ASK, style=Style(model="fake", endpoint=endpoint))
        (body,) = server.bodies
    assert (x.error, x.prompt_tokens, x.output_tokens, x.counted, x.finish) == (None, 2, 3, "usage", "length")
    assert len(x.pieces) == 3
    assert x.intended <= x.sent <= x.pieces[0] <= x.pieces[2] <= x.ended
    assert (body["max_tokens"], body["ignore_eos"], body["stream"]) == (3, True, True)
    assert body["stream_options"] == {"include_usage": True}


def test_an_answer_in_one_piece() -> None:
    with FakeServer(steady()) as server:
        (x,) = send(server.url, ASK, style=Style(model="fake", stream=False))
        (body,) = server.bodies
    assert (x.error, x.output_tokens, len(x.pieces)) == (None, 3, 1)
    assert "stream" not in body
    assert "stream_options" not in body


def test_only_pieces_with_something_generated_count() -> None:
    def choice(**delta: Any) -> bytes:
        return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}
    data = (
        choice(role="assistant", content=""),
        choice(content="a"),
        b": keep-alive\n\n",
        choice(tool_calls=[call]),
        choice(reasoning_content="hm"),
        choice(content=None),
        chunk("chat", finish="stop") + b"data: [DONE]\n\n",
    )
    x = answered(pieces(*data))
    assert (x.error, len(x.pieces), x.output_tokens, x.counted, x.finish) == (None, 3, 3, "pieces", "stop")


def test_events_are_read_however_they_are_cut() -> None:
    text = 'data: {"choices": [{"delta": {"content": "é😀"}}]}\r\n\r\n'
    whole = (text * 3 + "data: [DONE]\n\n").encode()
    x = answered(pieces(*(bytes([b]) for b in whole)))
    assert (x.error, len(x.pieces)) == (None, 3)


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (
            pieces(b'{"error": {"message": "full"}}', status=429, headers={"Retry-After": "3"}),
            "HTTP 429",
            "full",
        ),
        (pieces(b"<html>oops", status=500), "HTTP 500", "<html>oops"),
        (pieces(chunk("chat", "a"), event({"error": {"message": "lost"}})), "error in the stream", "lost"),
        (pieces(chunk("chat", "a")), "ended early", "no end"),
        (pieces(chunk("chat", finish="stop"), b"data: [DONE]\n\n"), "no text", "no text"),
        (pieces(b"data: {nonsense\n\n"), "malformed answer", ""),
        (pieces(b"data: [1]\n\n"), "malformed answer", "not a JSON object"),
        (pieces(chunk("chat", "a"), cut=True), "connection lost", "closed the connection"),
    ],
)
def test_errors_have_kinds(reply: Callable[[str, Body], Reply], kind: str, said: str) -> None:
    x = answered(reply)
    assert x.error == kind
    assert said in x.message
    assert x.retry_after == ("3" if kind == "HTTP 429" else None)


def test_an_answer_without_stream_that_is_none() -> None:
    style = Style(model="fake", stream=False)
    assert answered(pieces(b"nonsense"), style).error == "malformed answer"
    assert answered(pieces(b'{"choices": []}'), style).error == "ended early"


def test_a_request_that_takes_too_long_is_given_up() -> None:
    for seconds in (0.2, 2.0, 20.0, 200.0):  # the first piece is there in time, or it is tried again
        x = answered(lambda path, body: Reply([(0.0, chunk(path, "a")), (1e4, b"")]), timeout=seconds)
        assert (x.error, x.message) == ("timeout", f"no end within {seconds:g} s")
        if x.pieces:
            break
    assert len(x.pieces) == 1


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (x,) = send(f"http://127.0.0.1:{taken.getsockname()[1]}", ASK)
    assert x.error == "no connection"


def test_after_a_failure_others_are_answered() -> None:
    replies = iter(
        [pieces(chunk("chat", "a"), cut=True), steady(), pieces(b"data: {\n\n"), steady(), steady()]
    )
    with FakeServer(lambda path, body: next(replies)(path, body)) as server:
        kinds = [x.error for x in send(server.url, *[ASK] * 5)]
    assert kinds == ["connection lost", None, "malformed answer", None, None]


def test_connections_are_used_again() -> None:
    with FakeServer() as server:
        assert [x.error for x in send(server.url, *[ASK] * 5)] == [None] * 5
        assert server.connections == 1


def test_an_idle_connection_that_the_server_closed_loses_no_request() -> None:
    with FakeServer(close_after=2) as server:
        assert [x.error for x in send(server.url, *[ASK] * 6)] == [None] * 6
        assert server.connections == 3


def test_headers_and_the_path_before_v1() -> None:
    with FakeServer() as server:
        assert send(server.url + "/v1/", ASK, headers={"Authorization": "Bearer k"})[0].error is None
        assert send(server.url + "/v1", ASK)[0].error is None
        assert server.heads[0]["authorization"] == "Bearer k"
        assert server.heads[0]["accept-encoding"] == "identity"
        assert server.heads[0]["host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("url", ["", "http://", "ftp://x", "unix:///x"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="no address of a server"):
        Http(url, time.perf_counter)


def test_which_servers_are_here() -> None:
    assert is_local("http://127.0.0.1:8000")
    assert is_local("localhost:8000")
    assert is_local("http://[::1]:1/")
    assert not is_local("http://example.org:8000")
    assert not is_local("http://127.example.org")


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    """HTTP/1.0 style, as small servers answer."""

    async def main() -> tuple[int, bytes]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Http(f"127.0.0.1:{port}", WallClock().now) as http:
            return await http.get("/")

    assert asyncio.run(main()) == (200, b"all of it")


def test_the_body_is_what_the_endpoint_takes() -> None:
    chat = json.loads(Style(model="m").body(ASK))
    assert chat["messages"] == [{"role": "user", "content": "two words"}]
    plain = json.loads(Style(model="m", endpoint="completions", ignore_eos=False, usage=False).body(ASK))
    assert plain == {"model": "m", "prompt": "two words", "max_tokens": 3, "temperature": 0, "stream": True}
    assert usage_of(chat, 3)["prompt_tokens"] == 2
