"""Server-sent events as clients without a library of OpenAI's read them: line by line, over plain HTTP."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeService
from tests.waiting import PATIENCE, until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "seed": 1, "stream": True}
TEXT = {"model": "tiny", "prompt": "in the", "seed": 1, "stream": True}
LONG = {"max_tokens": 1500, "ignore_eos": True, "logit_bias": {"64": 100}}
"""Fields of an answer each of whose tokens is a letter."""


@pytest.fixture
def held(api_service: FakeService) -> Iterator[FakeService]:
    """The service with an engine that waits to be told, so that streams are seen while they run."""
    api_service.hold()
    yield api_service
    api_service.go()
    until(lambda: not api_service.engine.has_work)


def streamed(url: str, asked: dict[str, Any]) -> AbstractContextManager[httpx.Response]:
    """The answer to `asked` while it comes."""
    return httpx.stream("POST", url, json=asked, timeout=PATIENCE)


def events(response: httpx.Response) -> Iterator[str]:
    """The data of each event."""
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: "), line
            yield line.removeprefix("data: ")


def test_events_end_with_done(api_url: str) -> None:
    with streamed(f"{api_url}/v1/chat/completions", {**CHAT, "max_tokens": 6}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert "content-length" not in response.headers
        *chunks, done = list(events(response))
    assert done == "[DONE]"
    parsed = [json.loads(c) for c in chunks]
    assert parsed[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert parsed[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    for chunk in parsed:
        assert set(chunk) == {"id", "object", "created", "model", "system_fingerprint", "choices"}


@pytest.mark.parametrize(("path", "body"), [("chat/completions", CHAT), ("completions", TEXT)])
def test_text_joins_as_clients_join_it(api_url: str, path: str, body: dict[str, Any]) -> None:
    """As LangChain does: sum up deltas, take the last reason, read the usage where choices are empty."""
    url, text, reason, usage = f"{api_url}/v1/{path}", "", None, None
    asked = {**body, "max_tokens": 20, "stream_options": {"include_usage": True}}
    with streamed(url, asked) as response:
        for data in events(response):
            if data == "[DONE]":
                break
            chunk = json.loads(data)
            usage = chunk["usage"] or usage
            if not chunk["choices"]:
                continue
            choice = chunk["choices"][0]
            text += choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
            reason = choice["finish_reason"] or reason
    whole = httpx.post(url, json={**body, "max_tokens": 20, "stream": False}, timeout=PATIENCE).json()
    choice = whole["choices"][0]
    assert text == (choice["message"]["content"] if "message" in choice else choice["text"])
    assert reason == choice["finish_reason"]
    assert usage is not None
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]


@pytest.mark.parametrize(("path", "body"), [("chat/completions", CHAT), ("completions", TEXT)])
def test_the_usage_so_far_is_in_every_chunk_where_that_is_asked_for(
    api_url: str, held: FakeService, path: str, body: dict[str, Any]
) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = {**body, **LONG, "max_tokens": 12, "stream_options": options}
    with streamed(f"{api_url}/v1/{path}", asked) as response:
        found = events(response)
        first = next(found)
        held.allow(1)
        told = [first, next(found)]  # of different steps
        held.go()
        usages = [json.loads(data)["usage"] for data in [*told, *found] if data != "[DONE]"]
    *so_far, last = usages
    counts = [usage["completion_tokens"] for usage in so_far]
    assert counts == sorted(counts)
    assert counts[-1] == last["completion_tokens"] == 12
    assert len(set(counts)) > 1
    assert {usage["prompt_tokens"] for usage in usages} == {last["prompt_tokens"]}
    assert all(u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"] for u in usages)


def test_text_comes_while_it_is_made(api_url: str, held: FakeService) -> None:
    asked = {**TEXT, **LONG, "max_tokens": 40}
    with streamed(f"{api_url}/v1/completions", asked) as response:
        found = events(response)
        pieces = [json.loads(next(found))]  # it is here, and the next one is not made
        for _ in range(20):
            held.allow(1)
            pieces.append(json.loads(next(found)))
        assert held.num_running == 1
        held.go()
        pieces += [json.loads(data) for data in found if data != "[DONE]"]
    texts = [piece["choices"][0]["text"] for piece in pieces]
    assert all(texts[:21])
    assert len(set(texts[:21])) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [("chat/completions", CHAT), ("chat/completions", {**CHAT, "n": 3}), ("completions", TEXT)],
)
def test_a_client_that_leaves_frees_the_cache(
    api_url: str, held: FakeService, path: str, body: dict[str, Any]
) -> None:
    asked = {**body, **LONG}
    before = len(held.left)
    with streamed(f"{api_url}/v1/{path}", asked) as response:
        next(events(response))
    until(lambda: len(held.left) == before + body.get("n", 1))
    until(lambda: not held.engine.has_work)
    assert held.engine.scheduler.blocks.num_used == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_is_cut_off_without_a_word_frees_it_too(
    api_url: str, held: FakeService, stream: bool
) -> None:
    host, port = api_url.removeprefix("http://").split(":")
    body = json.dumps({**TEXT, **LONG, "stream": stream}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    before, asked = len(held.left), len(held.jobs)
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            assert raw.recv(100).startswith(b"HTTP/1.1 200")
        else:  # nothing comes before the end
            until(lambda: len(held.jobs) == asked + 1 and held.num_running == 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # reset
    until(lambda: len(held.left) == before + 1)
    until(lambda: held.engine.scheduler.blocks.num_used == 0)


def test_a_client_that_gives_up_waiting_frees_it_too(api_url: str, held: FakeService) -> None:
    asked = {**TEXT, **LONG, "stream": False}
    before, seen = len(held.left), len(held.jobs)
    timeout = httpx.Timeout(PATIENCE, read=0.3)
    while len(held.jobs) == seen:  # a client that goes before it was heard asks for nothing
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{api_url}/v1/completions", json=asked, timeout=timeout)
    until(lambda: len(held.left) - before == len(held.jobs) - seen)
    until(lambda: held.engine.scheduler.blocks.num_used == 0)


def test_a_slow_reader_gets_everything_in_larger_pieces(api_url: str) -> None:
    asked = {**TEXT, "max_tokens": 150, "ignore_eos": True}
    url = f"{api_url}/v1/completions"
    whole = httpx.post(url, json={**asked, "stream": False}, timeout=PATIENCE).json()
    text = ""
    with streamed(url, asked) as response:
        for data in events(response):
            if len(text) < 20:
                time.sleep(0.05)
            text += "" if data == "[DONE]" else json.loads(data)["choices"][0]["text"]
    assert text == whole["choices"][0]["text"]


def test_streams_do_not_wait_for_each_other(api_url: str, held: FakeService) -> None:
    asked = {**CHAT, "ignore_eos": True}
    url = f"{api_url}/v1/chat/completions"
    with streamed(url, {**asked, "max_tokens": 100}) as long:
        begun = events(long)
        next(begun)
        with streamed(url, {**asked, "max_tokens": 5}) as short:
            held.allow(20)
            assert [*events(short)][-1] == "[DONE]"
        assert held.num_running == 1, "the long one, which came first"
        held.go()
        assert [*begun][-1] == "[DONE]"
