"""One server for all tests of the API: a tiny model behind uvicorn on a free port."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI
from tests.server.fakes import FakeService, fake_service, served
from tests.waiting import PATIENCE

from twofold.server.page import background


@pytest.fixture(scope="session", autouse=True)
def _at_once() -> Iterator[None]:
    """Processes beside a server take their turn: on a busy machine they would get none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "NICENESS", 0)
        yield


@pytest.fixture(scope="session")
def api_service() -> FakeService:
    """The service behind `api_url`; its model is called "tiny"."""
    return fake_service()


@pytest.fixture(scope="session")
def api_url(api_service: FakeService) -> Iterator[str]:
    """Where it is served."""
    with served(api_service) as url:
        yield url


@pytest.fixture(scope="session")
def client(api_url: str) -> OpenAI:
    """OpenAI's own client for it, which tries nothing twice."""
    return OpenAI(base_url=f"{api_url}/v1", api_key="unused", max_retries=0, timeout=PATIENCE)


@pytest.fixture
def async_client(api_url: str) -> AsyncOpenAI:
    """The same for asyncio; one per test, as each has an event loop of its own."""
    return AsyncOpenAI(base_url=f"{api_url}/v1", api_key="unused", max_retries=0, timeout=PATIENCE)


@pytest.fixture(scope="session")
def token(api_service: FakeService) -> Callable[[str], str]:
    """The id of a one-token text, as a string."""

    def find(text: str) -> str:
        [id] = api_service.tokenizer.encode(text, special=False)
        return str(id)

    return find


@pytest.fixture(scope="session")
def only(token: Callable[[str], str]) -> Callable[[str], dict[str, int]]:
    """A logit_bias that leaves these letters."""
    return lambda letters: {token(letter): 100 for letter in letters}
