"""Hostile HTTP: bodies too large or never there, several requests in one go, what is no HTTP at all."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from tests.server.fakes import fake_service, served
from tests.waiting import PATIENCE

from twofold.server.settings import ServerSettings

JSON = {"content-type": "application/json"}
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(fake_service()) as found:
        yield found


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=PATIENCE) as found:
        yield found


def talk(url: str, *sent: bytes) -> bytes:
    """What the server says to `sent` until it closes the connection."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as line:
        for piece in sent:
            line.sendall(piece)
        said = b""
        while piece := line.recv(65536):
            said += piece
    return said


def test_large_bodies_announced_and_not(http: httpx.Client, url: str) -> None:
    large = b'{"model": "tiny", "prompt": "' + b"a" * (10 << 20) + b'"}'
    try:
        answer = http.post(TEXT, content=large, headers=JSON)
    except (httpx.WriteError, httpx.ReadError):  # it hung up while we were sending, as it may
        said = talk(
            url, b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (TEXT.encode(), len(large))
        )
        assert said.startswith(b"HTTP/1.1 413")
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    head = (
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b" " * (1 << 20))
    assert talk(url, head % TEXT.encode(), chunk, chunk, b"5\r\n12345\r\n").startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come() -> None:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    with served(fake_service(ServerSettings(timeout=1.0))) as hasty:
        said = talk(hasty, head % TEXT.encode())
    assert said.startswith(b"HTTP/1.1 408")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"


def test_requests_in_one_go_are_answered_in_order(url: str) -> None:
    body = b'{"prompt": "%b"}'
    head = b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += b"content-length: %d\r\n%b\r\n"
    requests = [body % text for text in (b"the", b"", b"the the")]
    last = [b"", b"", b"connection: close\r\n"]
    said = talk(url, b"".join(head % (len(r), end) + r for r, end in zip(requests, last, strict=True)))
    counts = [json.loads(part.partition(b"\r\n\r\n")[2])["count"] for part in said.split(b"HTTP/1.1 200")[1:]]
    assert counts == [1, 0, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"\0" * 64,
    ],
)
def test_what_is_no_http(url: str, line: bytes) -> None:
    assert talk(url, line).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/health", 200),
        ("HEAD", CHAT, 405),
        ("OPTIONS", CHAT, 405),
        ("GET", CHAT, 405),
        ("DELETE", RESPONSES, 405),
        ("PROPFIND", "/v1/models", 405),
        ("GET", "/v1/responses/resp_1", 404),
        ("GET", "/v1//models", 404),
        ("GET", "/page/..%2f..%2fapp.py", 404),
        ("GET", "/v1/models/%ff%00", 404),
        ("POST", "/v1/" + "a" * 4000, 404),
    ],
)
def test_other_methods_and_paths(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    if status == 405:
        assert answer.headers["allow"]
    if status != 200 and method != "HEAD":
        assert answer.json()["error"]["type"] == "invalid_request_error"
