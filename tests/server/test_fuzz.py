"""Requests made from the OpenAPI document, valid and not: no 5xx, and answers as the document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import CheckContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from tests.server.fakes import FakeService, fake_service, served
from tests.waiting import PATIENCE

from twofold.server.settings import ServerSettings


def allowed(case: schemathesis.Case) -> bool:
    """Whether the whole document allows the body of `case`."""
    raw = case.operation.schema.raw_schema
    content = raw["paths"][case.path][case.method.lower()]["requestBody"]["content"]
    schema = {**content["application/json"]["schema"], "components": raw["components"]}
    return bool(jsonschema.Draft202012Validator(schema).is_valid(case.body))


def invalid_bodies_are_refused(
    context: CheckContext, response: Response, case: schemathesis.Case
) -> bool | None:
    """As `negative_data_rejection`, but by the document's word: a body made to break one variant of a `oneOf`
    may well be another variant."""
    if response.status_code == 200 and case.media_type == "application/json" and allowed(case):
        return None
    return checks.negative_data_rejection(context, response, case)


CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    invalid_bodies_are_refused,
    checks.unsupported_method,
]


@pytest.fixture(scope="module")
def service() -> FakeService:
    """Short answers, few at a time."""
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 48}
    return fake_service(ServerSettings(max_queue=4), engine=limits)


@pytest.fixture(scope="module")
def document(service: FakeService) -> Iterator[Any]:
    with served(service) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


OPERATIONS = [
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/embeddings"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/health"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/plan"),
]


def test_every_operation_of_the_document_is_tried(document: Any) -> None:
    assert [(o.ok().method.upper(), o.ok().path) for o in document.get_all_operations()] == OPERATIONS


@pytest.mark.parametrize(
    ("message", "valid"),
    [
        ({"role": "developer", "content": "the"}, True),
        ({"role": "developer", "content": [{"type": "text", "text": "the"}]}, True),
        ({"role": "tool", "content": "the"}, False),
        ({"role": "developer", "content": [{"type": "refusal", "refusal": "no"}]}, False),
    ],
)
def test_what_the_whole_document_allows(document: Any, message: dict[str, Any], valid: bool) -> None:
    body = {"model": "tiny", "messages": [message]}
    for path in ("/tokenize", "/v1/chat/completions"):
        case = document[path]["POST"].Case(body=body, media_type="application/json")
        assert allowed(case) == valid
        assert (case.call(timeout=PATIENCE).status_code == 200) == valid


def attack(document: Any, method: str, path: str, mode: GenerationMode, examples: int) -> None:
    """Send `examples` requests that the document allows, or that it does not."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS, timeout=PATIENCE)

    run()


# What takes no body has nothing that could be wrong.
CASES = [(*o, mode) for o in OPERATIONS for mode in GenerationMode if mode.is_positive or o[0] == "POST"]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_requests_by_the_document(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    attack(document, method, path, mode, 12)


@pytest.mark.long
@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_many_requests_by_the_document(document: Any, method: str, path: str, mode: GenerationMode) -> None:
    attack(document, method, path, mode, 400)
