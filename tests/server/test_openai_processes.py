"""The API on the real service: a worker process answers as the engine in a thread of this one does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from tests.models.tiny import tiny_gguf
from tests.server.fakes import served
from tests.server.running import serving_plan
from tests.waiting import PATIENCE

from twofold.server.service import Service
from twofold.server.settings import ServerSettings

HELLO = [{"role": "user", "content": "Hello"}]
FUNCTION = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
    },
}
TOOLS = [{"type": "function", "function": FUNCTION}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["é€", "no"]}}}
VARYING = {"id", "created", "system_fingerprint"}


@pytest.fixture(scope="module")
def real_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tiny_gguf(tmp_path_factory.mktemp("real") / "tiny.gguf", context=2048)
    plan = serving_plan(path, kernels="reference", max_num_batched_tokens=256, cache_blocks=256)
    with served(Service(plan, ServerSettings(model_name="tiny"))) as url:
        yield url


def answer(url: str, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    """An answer without what differs every time, and its log-probabilities in order."""
    response = httpx.post(f"{url}/v1/{path}", json={"model": "tiny", **body}, timeout=PATIENCE)
    numbers: list[float] = []
    found: dict[str, Any] = json.loads(response.text, parse_float=lambda text: numbers.append(float(text)))
    for choice in found.get("choices", []):
        for call in choice.get("message", {}).get("tool_calls", []):
            del call["id"]
    if "usage" in found:  # what is cached depends on what was asked before
        del found["usage"]["prompt_tokens_details"]
    return {name: value for name, value in found.items() if name not in VARYING}, numbers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": HELLO, "temperature": 0, "max_tokens": 12}),
        ("chat/completions", {"messages": HELLO, "n": 3, "seed": 5, "max_tokens": 12, "logprobs": True}),
        ("chat/completions", {"messages": HELLO, "seed": 5, "tools": TOOLS, "tool_choice": "required",
                              "max_tokens": 120}),
        ("chat/completions", {"messages": HELLO, "seed": 1, "response_format": SCHEMA, "logprobs": True}),
        ("chat/completions", {"messages": HELLO, "seed": 1, "response_format": {"type": "jsn"}}),
        ("completions", {"prompt": ["in the", "the"], "seed": 2, "logprobs": 3, "logit_bias": {"64": 5}}),
        ("completions", {"prompt": [1, 2, 3], "seed": 2, "best_of": 3, "echo": True, "stop": ["a", "b"]}),
    ],
)  # fmt: skip
def test_worker_processes_answer_the_same(api_url: str, real_url: str, path: str, body: Any) -> None:
    (here, numbers), (there, others) = answer(api_url, path, body), answer(real_url, path, body)
    assert here == there
    assert numbers == pytest.approx(others, abs=1e-4)


def test_openais_client_streams_from_a_worker_process(real_url: str, client: OpenAI) -> None:
    real = OpenAI(base_url=f"{real_url}/v1", api_key="unused", max_retries=0, timeout=PATIENCE)
    fields: Any = {"model": "tiny", "messages": HELLO, "seed": 9, "max_tokens": 40}
    text = ""
    for chunk in real.chat.completions.create(stream=True, **fields):
        text += chunk.choices[0].delta.content or ""
    assert text == client.chat.completions.create(**fields).choices[0].message.content
