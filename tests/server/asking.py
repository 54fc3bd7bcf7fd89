"""How tests of the API ask: small requests with a seed, and a bias that steers a random model."""

from __future__ import annotations

from typing import Any

import httpx
from openai import OpenAI
from tests.server.fakes import FakeService

from twofold.server.messages import Generate

HELLO: Any = [{"role": "user", "content": "Hello"}]


def chat(client: OpenAI, **fields: Any) -> Any:
    """A chat completion of eight tokens."""
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "seed": 1, **fields}
    return client.chat.completions.create(**asked)


def complete(client: OpenAI, **fields: Any) -> Any:
    """A plain completion."""
    return client.completions.create(**{"model": "tiny", "prompt": "in the", "seed": 1, **fields})


def last_job(service: FakeService) -> Generate:
    """What the service was asked last."""
    job = service.jobs[-1]
    assert isinstance(job, Generate)
    return job


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, whose shape is checked."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    return error
