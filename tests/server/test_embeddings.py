"""POST /v1/embeddings with OpenAI's own client."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from tests.server.fakes import FakeService, fake_service, served
from tests.waiting import PATIENCE, until

from twofold.server.dispatcher import Refused
from twofold.server.messages import Failed, Job
from twofold.server.settings import ServerSettings

WIDTH = 256  # of the tiny model


@pytest.fixture(scope="module")
def service() -> FakeService:
    return fake_service(ServerSettings(max_prompt=500))


@pytest.fixture(scope="module")
def client(service: FakeService) -> Iterator[OpenAI]:
    with (
        served(service) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as found,
    ):
        yield found


def embed(client: OpenAI, given: Any, **fields: Any) -> list[list[float]]:
    found = client.embeddings.create(model="tiny", input=given, encoding_format="float", **fields)
    assert [e.index for e in found.data] == list(range(len(found.data)))
    return [e.embedding for e in found.data]


def test_a_vector_for_each_input_whatever_its_shape(client: OpenAI, service: FakeService) -> None:
    texts = ["the 12 in", "in the"]
    both = embed(client, texts, user="me")
    assert [len(v) for v in both] == [WIDTH, WIDTH]
    assert not np.allclose(both[0], both[1])
    ids = [service.tokenizer.encode(text) for text in texts]
    for same in (ids, texts):
        assert np.allclose(embed(client, same), both, atol=1e-5)
    assert np.allclose(embed(client, texts[0])[0], both[0], atol=1e-5)
    assert np.allclose(embed(client, ids[0])[0], both[0], atol=1e-5)


def test_base64_holds_the_same_numbers(client: OpenAI) -> None:
    # The client asks for base64 itself where no encoding is given.
    decoded = client.embeddings.create(model="tiny", input="the 12").data[0].embedding
    assert np.allclose(decoded, embed(client, "the 12")[0], atol=1e-6)
    raw = client.embeddings.with_raw_response.create(model="tiny", input="the", encoding_format="base64")
    text = raw.http_response.json()["data"][0]["embedding"]
    assert len(base64.b64decode(text)) == 4 * WIDTH


def test_usage_counts_every_input(client: OpenAI, service: FakeService) -> None:
    used = client.embeddings.create(model="tiny", input=["the", "the in"]).usage
    count = len(service.tokenizer.encode("the")) + len(service.tokenizer.encode("the in"))
    assert (used.prompt_tokens, used.total_tokens) == (count, count)


def test_control_tokens_in_texts_are_text(client: OpenAI, service: FakeService) -> None:
    embed(client, "the<|im_end|>")
    ids = service.jobs[-1].prompt_ids
    assert not service.tokenizer.eos_ids & set(ids)
    assert service.tokenizer.decode(list(ids)) == "the<|im_end|>"


def test_more_inputs_than_may_run_at_once(client: OpenAI, service: FakeService) -> None:
    given = [[3 + i, 4] for i in range(30)]
    found = embed(client, given)
    assert np.allclose(found[7], embed(client, given[7])[0], atol=1e-5)
    until(lambda: service.num_used_blocks == 0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["the", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [1, "the"]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [10**9]}, "input"),
        ({"input": [3] * 600}, "input"),
        ({"input": 7}, "input"),
        ({"dimensions": 8}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"extra_body": {"truncate": True}}, "truncate"),
    ],
)
def test_what_cannot_be_is_refused_by_name(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    given = {"model": "tiny", "input": "the", **fields}
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(**given)
    assert refused.value.param == param


def test_another_model_a_full_queue_and_a_failure(client: OpenAI, service: FakeService) -> None:
    with pytest.raises(openai.NotFoundError, match="'other' is not here"):
        client.embeddings.create(model="other", input="the")
    service.refuse = Refused("queue_full", "no room", 2.5)
    try:
        with pytest.raises(openai.RateLimitError) as refused:
            client.embeddings.create(model="tiny", input="the")
        assert refused.value.response.headers["retry-after"] == "3"
    finally:
        service.refuse = None

    def second_is_lost(job: Job) -> list[Failed]:
        return [Failed(job.id, "lost", "the worker was lost")] if job.id.endswith("-1") else []

    service.script = second_is_lost
    try:
        with pytest.raises(openai.InternalServerError) as lost:
            client.embeddings.create(model="tiny", input=["the"] * 4)
        assert lost.value.status_code == 503
    finally:
        service.script = lambda _: ()
    assert embed(client, "the")
    until(lambda: service.num_used_blocks == 0)
