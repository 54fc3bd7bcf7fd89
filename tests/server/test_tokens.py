"""/tokenize and /detokenize."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.fakes import FakeService, fake_service, served
from tests.waiting import PATIENCE

MESSAGES = [{"role": "user", "content": "the 12"}]


@pytest.fixture(scope="module")
def service() -> FakeService:
    return fake_service()


@pytest.fixture(scope="module")
def client(service: FakeService) -> Iterator[httpx.Client]:
    with served(service) as url, httpx.Client(base_url=url, timeout=PATIENCE) as found:
        yield found


def tokens(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/tokenize", json=fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    assert found["count"] == len(found["tokens"])
    return found


def test_a_text(client: httpx.Client, service: FakeService) -> None:
    found = tokens(client, model="tiny", prompt="<|im_start|>the é")
    assert found["tokens"] == service.tokenizer.encode("<|im_start|>the é")
    assert (found["max_model_len"], found["token_strs"]) == (2048, None)
    shown = tokens(client, prompt="the é", return_token_strs=True)["token_strs"]
    assert shown == ["the", " ", "\\xc3", "\\xa9"]
    assert tokens(client, prompt="")["tokens"] == []


def test_a_conversation_is_what_a_chat_gives_the_model(client: httpx.Client, service: FakeService) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for extra in ({}, {"tools": [tool]}):
        found = tokens(client, messages=MESSAGES, **extra)
        body = {"model": "tiny", "messages": MESSAGES, "max_completion_tokens": 1, **extra}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert tuple(found["tokens"]) == service.jobs[-1].prompt_ids


@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=40))
def test_there_and_back(client: httpx.Client, text: str) -> None:
    ids = tokens(client, prompt=text)["tokens"]
    back = client.post("/detokenize", json={"tokens": ids, "model": "tiny"})
    assert back.json() == {"prompt": text}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
        ("/tokenize", {"messages": MESSAGES, "add_special_tokens": False}, "add_special_tokens"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"prompt": "a", "nonsense": 1}, "nonsense"),
        ("/detokenize", {"tokens": [1, 10**6]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    client: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_another_model(client: httpx.Client) -> None:
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
        assert client.post(path, json={**body, "model": "other"}).status_code == 404
