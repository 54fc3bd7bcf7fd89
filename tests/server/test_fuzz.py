"""Requests made from the OpenAPI document, valid and not: no 5xx, and answers as the document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from tests.server.fakes import FakeService, fake_service, served

from twofold.server.settings import ServerSettings

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
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
        case.call_and_validate(checks=CHECKS, timeout=300)

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
