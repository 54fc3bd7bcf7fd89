"""docs/server.md says what the server does: its examples run, its tables are made of the declarations."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai.types as types
import pytest
from openai.types.responses import response_create_params
from tests.server.fakes import fake_service, served
from tests.waiting import PATIENCE

from twofold.jobs.docs import rewrite
from twofold.jobs.docs_sections import api, server_metrics
from twofold.server.app import create_app
from twofold.server.openai.embeddings import EmbeddingRequest
from twofold.server.openai.fields import uses
from twofold.server.openai.responses_request import ResponseRequest
from twofold.server.openapi import EXAMPLES
from twofold.server.reference import REQUESTS
from twofold.server.settings import ServerSettings

PAGE = Path(__file__).parents[2] / "docs" / "server.md"
ADDRESS, MODEL = "http://127.0.0.1:8000", "smollm2-135m"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(fake_service(ServerSettings(model_name=MODEL))) as found:
        yield found


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


def test_the_python_examples_run(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")
    assert len(code) >= 5
    scope: dict[str, Any] = {"__name__": "docs"}
    for block in code:
        exec(compile(block.replace(ADDRESS, url), str(PAGE), "exec", dont_inherit=True), scope)
    printed = capsys.readouterr().out
    assert "ResponseUsage" in printed
    assert 'name="weather"' in printed or "name='weather'" in printed


def test_the_shell_examples_run(url: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    found = [
        subprocess.run(
            ["bash", "-euc", block.replace("curl -s", "curl -sf").replace(ADDRESS, url)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        for block in blocks("bash")
    ]
    assert [run.returncode for run in found] == [0] * len(found), [run.stderr for run in found]
    chat, tokens = (run.stdout for run in found)
    assert chat.rstrip().endswith("data: [DONE]")
    assert '"token_strs":["' in tokens


def test_every_endpoint_is_named() -> None:
    service = fake_service()
    paths = create_app(service, service.settings).openapi()["paths"]  # type: ignore[arg-type]
    text = PAGE.read_text(encoding="utf-8")
    assert [path for path in paths if f"{path}`" not in text] == []


def test_the_tables_are_those_of_the_code(tmp_path: Path) -> None:
    copy = tmp_path / "server.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    assert not rewrite(copy, {"api": api, "metrics": server_metrics}), "run `make docs`"


@pytest.mark.parametrize(
    ("request_model", "theirs"),
    [
        (ResponseRequest, response_create_params.ResponseCreateParamsStreaming),
        (EmbeddingRequest, types.EmbeddingCreateParams),
    ],
)
def test_every_field_of_openai_is_declared(request_model: Any, theirs: Any) -> None:
    known = {name for cls in theirs.__mro__ for name in getattr(cls, "__annotations__", {})}
    known |= theirs.__required_keys__ | theirs.__optional_keys__
    assert known == {name for name, _ in uses(request_model)}


def test_the_document_has_an_example_of_every_request_and_they_work(url: str) -> None:
    import httpx

    document = httpx.get(f"{url}/openapi.json", timeout=PATIENCE).json()
    tried = 0
    for path, request in REQUESTS.items():
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert set(body["examples"]) == set(EXAMPLES[request.__name__])
        for name, example in body["examples"].items():
            answer = httpx.post(url + path, json=example["value"], timeout=PATIENCE)
            assert answer.status_code == 200, (path, name, answer.text)
            tried += 1
    assert tried >= len(REQUESTS)


def test_the_document_tells_of_fields_keys_and_failures() -> None:
    service = fake_service(ServerSettings(api_key="secret"))
    document = create_app(service, service.settings).openapi()  # type: ignore[arg-type]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert "422" not in operation["responses"]
            assert ("401" in operation["responses"]) == (path != "/health")
    fields = document["components"]["schemas"]["ResponseRequest"]["properties"]
    assert fields["store"]["enum"] == [None, False]
    assert "not stored" in fields["store"]["description"]
    assert "greedy" in fields["temperature"]["description"]
