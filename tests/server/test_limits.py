"""Who may ask, how much, and from where."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.server.asking import HELLO, error_of
from tests.server.fakes import fake_service, served
from tests.waiting import PATIENCE

from twofold.server.settings import ServerSettings

CHAT = "/v1/chat/completions"
KEY = "sëcret"


@pytest.fixture(scope="module")
def guarded() -> Iterator[httpx.Client]:
    """A server with a key, a small limit on bodies, on prompts, and one origin."""
    settings = ServerSettings(
        api_key=KEY, max_body=4096, max_prompt=40, cors=("https://a.example",), max_queue=3
    )
    with served(fake_service(settings)) as url, httpx.Client(base_url=url, timeout=PATIENCE) as http:
        yield http


def auth(key: str, scheme: str = "Bearer") -> dict[str, bytes]:
    return {"authorization": f"{scheme} {key}".encode()}


@pytest.mark.parametrize(
    "headers", [{}, auth("wrong"), auth(KEY[:-1]), auth(KEY, "Basic"), {"authorization": "Bearer"}]
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/version", "/api/live"])
def test_without_the_key_there_is_no_answer(guarded: httpx.Client, path: str, headers: Any) -> None:
    response = guarded.get(path, headers=headers)
    assert response.status_code == 401
    assert error_of(response)["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert KEY not in response.text


def test_with_the_key_there_is(guarded: httpx.Client) -> None:
    assert guarded.get("/v1/models", headers=auth(KEY)).status_code == 200
    assert guarded.get("/v1/models", headers=auth(KEY, "bearer")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/"])
def test_health_and_the_page_need_no_key(guarded: httpx.Client, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_bodies_are_bounded_by_length_and_by_counting(guarded: httpx.Client) -> None:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * 5000}]}).encode()
    headers = {"content-type": "application/json", **auth(KEY)}

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 500):
            yield body[at : at + 500]

    for content in (body, pieces()):
        response = guarded.post(CHAT, content=content, headers=headers)
        assert response.status_code == 413
        assert error_of(response)["code"] == "body_too_large"
    assert guarded.get("/v1/models", headers=headers).status_code == 200


def test_an_upload_that_never_ends_is_cut_off(guarded: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100_000):
            yield b" " * 1000

    headers = {"content-type": "application/json", **auth(KEY)}
    try:
        response = guarded.post(CHAT, content=endless(), headers=headers)
    except (httpx.WriteError, httpx.ReadError):
        return  # the connection was closed while we still wrote
    assert response.status_code == 413


def test_long_prompts_are_refused(guarded: httpx.Client) -> None:
    messages = [{"role": "user", "content": "x" * 100}]
    response = guarded.post(CHAT, json={"model": "tiny", "messages": messages}, headers=auth(KEY))
    assert response.status_code == 400
    assert error_of(response)["code"] == "context_length_exceeded"


def test_more_answers_than_fit_at_once_are_refused(guarded: httpx.Client) -> None:
    body = {"model": "tiny", "messages": HELLO, "n": 8}
    response = guarded.post(CHAT, json=body, headers=auth(KEY))
    assert (response.status_code, error_of(response)["param"]) == (400, "n")


def test_browsers_may_call_from_named_origins_only(guarded: httpx.Client, api_url: str) -> None:
    def preflight(client: httpx.Client, origin: str) -> httpx.Response:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        return client.options(CHAT, headers={**asked, "access-control-request-headers": "authorization"})

    fine = preflight(guarded, "https://a.example")
    assert fine.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-origin" not in preflight(guarded, "https://b.example").headers
    with httpx.Client(base_url=api_url, timeout=PATIENCE) as closed:
        assert "access-control-allow-origin" not in preflight(closed, "https://a.example").headers
    refused = guarded.get("/v1/models", headers={"origin": "https://a.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://a.example"
