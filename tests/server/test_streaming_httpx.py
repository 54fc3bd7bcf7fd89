"""Server-sent events as clients without a library of OpenAI's read them: line by line, over plain HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.server.fakes import FakeService

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "seed": 1, "stream": True}
TEXT = {"model": "tiny", "prompt": "in the", "seed": 1, "stream": True}


@pytest.fixture
def slow(api_service: FakeService) -> Iterator[FakeService]:
    """The service with steps that take a while, so that streams are seen while they run."""
    api_service.line.step_delay = 0.01
    yield api_service
    api_service.line.step_delay = 0.0


def events(response: httpx.Response) -> Iterator[str]:
    """The data of each event."""
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: "), line
            yield line.removeprefix("data: ")


def until(what: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 30
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_events_end_with_done(api_url: str) -> None:
    with httpx.stream("POST", f"{api_url}/v1/chat/completions", json={**CHAT, "max_tokens": 6}) as response:
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
    with httpx.stream("POST", url, json=asked) as response:
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
    whole = httpx.post(url, json={**body, "max_tokens": 20, "stream": False}).json()
    choice = whole["choices"][0]
    assert text == (choice["message"]["content"] if "message" in choice else choice["text"])
    assert reason == choice["finish_reason"]
    assert usage is not None
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]


@pytest.mark.parametrize(("path", "body"), [("chat/completions", CHAT), ("completions", TEXT)])
def test_the_usage_so_far_is_in_every_chunk_where_that_is_asked_for(
    api_url: str, path: str, body: dict[str, Any]
) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    asked = {**body, "max_tokens": 12, "ignore_eos": True, "stream_options": options}
    with httpx.stream("POST", f"{api_url}/v1/{path}", json=asked) as response:
        usages = [json.loads(data)["usage"] for data in events(response) if data != "[DONE]"]
    *so_far, last = usages
    counts = [usage["completion_tokens"] for usage in so_far]
    assert counts == sorted(counts)
    assert counts[-1] == last["completion_tokens"] == 12
    assert len(set(counts)) > 1
    assert {usage["prompt_tokens"] for usage in usages} == {last["prompt_tokens"]}
    assert all(u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"] for u in usages)


def test_text_comes_while_it_is_made(api_url: str, slow: FakeService) -> None:
    asked = {**TEXT, "max_tokens": 80, "ignore_eos": True, "logit_bias": {"64": 100}}
    with httpx.stream("POST", f"{api_url}/v1/completions", json=asked) as response:
        found = events(response)
        next(found)
        assert slow.engine.scheduler.num_running == 1  # the first piece is here, and the answer is not done
        pieces = [json.loads(data) for data in found if data != "[DONE]"]
    assert len(pieces) > 20


@pytest.mark.parametrize(
    ("path", "body"),
    [("chat/completions", CHAT), ("chat/completions", {**CHAT, "n": 3}), ("completions", TEXT)],
)
def test_a_client_that_leaves_frees_the_cache(
    api_url: str, slow: FakeService, path: str, body: dict[str, Any]
) -> None:
    asked = {**body, "max_tokens": 1500, "ignore_eos": True}
    before = len(slow.left)
    with httpx.stream("POST", f"{api_url}/v1/{path}", json=asked) as response:
        next(events(response))
    until(lambda: len(slow.left) == before + body.get("n", 1))
    until(lambda: not slow.engine.has_work)
    assert slow.engine.scheduler.blocks.num_used == 0


def test_a_client_that_leaves_before_an_answer_that_is_not_streamed_frees_it_too(
    api_url: str, slow: FakeService
) -> None:
    asked = {**TEXT, "stream": False, "max_tokens": 1500, "ignore_eos": True}
    before = len(slow.left)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{api_url}/v1/completions", json=asked, timeout=httpx.Timeout(10, read=0.3))
    until(lambda: len(slow.left) == before + 1)
    until(lambda: not slow.engine.has_work)
    assert slow.engine.scheduler.blocks.num_used == 0


def test_a_client_that_is_cut_off_without_a_word_frees_it_too(api_url: str, slow: FakeService) -> None:
    host, port = api_url.removeprefix("http://").split(":")
    body = json.dumps({**TEXT, "max_tokens": 1500, "ignore_eos": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    before = len(slow.left)
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # reset
    until(lambda: len(slow.left) == before + 1)
    until(lambda: slow.engine.scheduler.blocks.num_used == 0)


def test_a_slow_reader_gets_everything_in_larger_pieces(api_url: str) -> None:
    asked = {**TEXT, "max_tokens": 150, "ignore_eos": True}
    whole = httpx.post(f"{api_url}/v1/completions", json={**asked, "stream": False}, timeout=30).json()
    text = ""
    with httpx.stream("POST", f"{api_url}/v1/completions", json=asked, timeout=30) as response:
        for data in events(response):
            if len(text) < 20:
                time.sleep(0.05)
            text += "" if data == "[DONE]" else json.loads(data)["choices"][0]["text"]
    assert text == whole["choices"][0]["text"]


def test_streams_do_not_wait_for_each_other(api_url: str, slow: FakeService) -> None:
    async def one(client: httpx.AsyncClient, tokens: int) -> float:
        asked = {**CHAT, "max_tokens": tokens, "ignore_eos": True}
        async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
            async for _ in response.aiter_lines():
                pass
        return time.monotonic()

    async def race() -> tuple[float, float]:
        async with httpx.AsyncClient(base_url=api_url, timeout=60) as client:
            long, short = await asyncio.gather(one(client, 100), one(client, 5))
        return long, short

    long, short = asyncio.run(race())
    assert short < long
