"""Failures as clients see them: the status, OpenAI's error object, Retry-After, and nothing from inside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, OpenAI, RateLimitError
from tests.server.asking import HELLO, error_of
from tests.server.fakes import FakeService
from tests.waiting import PATIENCE, until

from twofold.server.dispatcher import Refused
from twofold.server.messages import Chunk, Failed

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def http(api_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=api_url, timeout=PATIENCE) as client:
        yield client


@pytest.fixture
def refusing(api_service: FakeService) -> Iterator[FakeService]:
    """The service, which is itself again afterwards."""
    yield api_service
    api_service.refuse = None
    api_service.script = lambda _: ()


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post(CHAT, json={"model": "tiny", "messages": HELLO, "max_tokens": 4, **fields})


# --- what the client did wrong ---


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"temperature": 2.5}, "temperature", "2"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"top_p": -0.1}, "top_p", "0"),
        ({"n": 0}, "n", "1"),
        ({"n": "2"}, "n", "integer"),
        ({"n": 200}, "n", "128"),
        ({"stop": ["a"] * 5}, "stop", "4"),
        ({"stop": ""}, "stop", "1 character"),
        ({"seed": 2**63}, "seed", ""),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x'"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "99999"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "100"),
        ({"logit_bias": {"1": 1, "01": 1}}, "logit_bias", "twice"),
        ({"max_tokens": 0}, "max_tokens", "1"),
        ({"max_tokens": 5000}, "messages", "context"),
        ({"max_tokens": 4, "min_tokens": 5}, "min_tokens", "max_tokens"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        (
            {"stream": True, "stream_options": {"continuous_usage_stats": True}},
            "stream_options",
            "include_usage",
        ),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "include_usage"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}},
         "stream_options.include_obfuscation", "padding"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction", "not supported"),
        ({"store": True}, "store", "give false"),
        ({"service_tier": "flex"}, "service_tier", '"auto"'),
        ({"functions": [{"name": "f"}]}, "functions", "use tools"),
        ({"metadata": {"a": 1}}, "metadata.a", "string"),
        ({"messages": []}, "messages", "1"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
        ({"messages": [{"content": "x"}]}, "messages[0]", "role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]", "robot"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "string"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "1"),
        ({"messages": [*HELLO, {"role": "user", "content": [{"type": "text"}]}]},
         "messages[1].content[0].text", "required"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content[0]", "text only"),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]},
         "messages[0].tool_call_id", "'c'"),
        ({"messages": [{"role": "assistant"}]}, "messages[0].content", "tool_calls"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]", "custom"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "tools", "same name"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}],
          "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "'g'"),
        ({"response_format": {"type": "xml"}}, "response_format", "xml"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, None, "grammar"),
    ],
)  # fmt: skip
def test_a_request_at_fault_is_told_which_field(
    http: httpx.Client, fields: Any, param: Any, says: str
) -> None:
    response = ask(http, **fields)
    error = error_of(response)
    assert response.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert says in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [5000]}, "prompt"),
        ({"prompt": {"a": "x"}}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": ["x"] * 128, "n": 128}, "n"),
        ({"tools": []}, "tools"),
    ],
)
def test_a_completion_at_fault_is_told_which_field(http: httpx.Client, fields: Any, param: str) -> None:
    response = http.post("/v1/completions", json={"model": "tiny", "prompt": "x", **fields})
    assert response.status_code == 400, response.text
    assert error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "body in JSON"),
        (b"{", "not JSON"),
        (b"[]", "dictionary"),
        (b"null", "body in JSON"),
        (b'{"model": "\xff"}', ""),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', "UTF-8"),
        (b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
        (
            b'{"model": "tiny", "messages": [], "response_format": ' + b'{"a":' * 500 + b"1" + b"}" * 501,
            "ecursion",
        ),
        (b'{"model": "tiny", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', "finite"),
        (b'{"model": "tiny", "n": 1' + b"0" * 5000 + b"}", ""),
    ],
)
def test_bodies_that_are_no_request_are_400(http: httpx.Client, content: bytes, says: str) -> None:
    response = http.post(CHAT, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert says in error_of(response)["message"]


def test_json_must_be_called_json(http: httpx.Client) -> None:
    body = json.dumps({"model": "tiny", "messages": HELLO})
    response = http.post(CHAT, content=body, headers={"content-type": "text/plain"})
    assert response.status_code == 400
    assert "application/json" in error_of(response)["message"]


def test_openais_client_gets_its_own_exceptions(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=3)  # type: ignore[arg-type]
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


def test_another_model_and_another_address_are_404(http: httpx.Client) -> None:
    other = ask(http, model="gpt-4o")
    assert (other.status_code, error_of(other)["param"], error_of(other)["code"]) == (
        404,
        "model",
        "model_not_found",
    )
    lost = http.post("/v1/chat/completion")
    assert lost.status_code == 404
    assert "did you mean '/v1/chat/completions'" in error_of(lost)["message"]


def test_another_method_is_405(http: httpx.Client) -> None:
    response = http.get(CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert "POST" in error_of(response)["message"]


# --- what the server cannot do now ---


@pytest.mark.parametrize(
    ("kind", "status", "type"),
    [
        ("queue_full", 429, "rate_limit_error"),
        ("draining", 503, "server_error"),
        ("unavailable", 503, "server_error"),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
def test_a_refusal_says_when_to_come_back(
    http: httpx.Client, refusing: FakeService, kind: Any, status: int, type: str, fields: Any
) -> None:
    refusing.refuse = Refused(kind, "not now", 2.4)
    response = ask(http, **fields)
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (status, type, kind)
    assert response.headers["retry-after"] == "3"


def test_a_full_queue_is_a_rate_limit_for_openais_client(client: OpenAI, refusing: FakeService) -> None:
    refusing.refuse = Refused("queue_full", "full", 1.0)
    with pytest.raises(RateLimitError):
        client.completions.create(model="tiny", prompt="x")


@pytest.mark.parametrize(
    ("kind", "status"),
    [("invalid", 400), ("timeout", 408), ("lost", 503), ("draining", 503), ("internal", 500)],
)
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}, {"n": 2, "stream": True}])
def test_what_fails_before_the_first_token_has_its_status(
    http: httpx.Client, refusing: FakeService, kind: Any, status: int, fields: Any
) -> None:
    refusing.script = lambda job: [Failed(job.id, kind, "secret cause")]
    response = ask(http, **fields)
    error = error_of(response)
    assert response.status_code == status
    assert ("secret cause" in error["message"]) == (kind != "internal")
    assert ("retry-after" in response.headers) == (kind in ("timeout", "lost", "draining"))


def test_one_failed_choice_ends_the_others(http: httpx.Client, refusing: FakeService) -> None:
    refusing.script = lambda job: [Failed(job.id, "lost", "gone")] if job.id.endswith("-1") else ()
    before = len(refusing.left)
    assert ask(http, n=3, max_tokens=500, ignore_eos=True).status_code == 503
    until(lambda: len(refusing.left) >= before + 1)


def test_a_failure_within_a_stream_ends_it_without_done(http: httpx.Client, refusing: FakeService) -> None:
    refusing.script = lambda job: [Chunk(job.id, "so far", 1), Failed(job.id, "lost", "the worker died")]
    response = ask(http, stream=True)
    assert response.status_code == 200
    *events, last = [e.removeprefix("data: ") for e in response.text.strip().split("\n\n")]
    assert json.loads(last)["error"]["message"] == "the worker died"
    assert "so far" in events[-1]
    assert "[DONE]" not in response.text


def test_openais_client_raises_what_fails_within_a_stream(client: OpenAI, refusing: FakeService) -> None:
    from openai import APIError

    refusing.script = lambda job: [Chunk(job.id, "so far", 1), Failed(job.id, "lost", "the worker died")]
    stream = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)  # type: ignore[call-overload]
    with pytest.raises(APIError, match="the worker died"):
        list(stream)


def test_a_bug_says_nothing_of_itself(http: httpx.Client, refusing: FakeService, caplog: Any) -> None:
    def bug(job: Any) -> Any:
        raise RuntimeError("secret cause")

    refusing.script = bug
    with httpx.Client(base_url=http.base_url, timeout=PATIENCE) as own:  # the server closes the connection
        response = ask(own)
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret" not in response.text
    until(lambda: "secret cause" in caplog.text)  # it is written once the answer is sent


def test_while_the_model_loads_there_is_a_503(http: httpx.Client, refusing: FakeService) -> None:
    ready, refusing.ready = refusing.ready, None
    try:
        response = ask(http)
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert http.get("/v1/models").status_code == 200
    finally:
        refusing.ready = ready


def test_status_errors_carry_the_body(client: OpenAI, refusing: FakeService) -> None:
    refusing.script = lambda job: [Failed(job.id, "timeout", "too slow")]
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(model="tiny", messages=HELLO)  # type: ignore[arg-type]
    assert caught.value.status_code == 408
    assert "too slow" in str(caught.value)
