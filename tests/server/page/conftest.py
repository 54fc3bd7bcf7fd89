"""A server with the page: the tiny model in a thread, a results database and a calibrated processor of its
own, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tests.report.examples import comparison, result
from tests.server.fakes import FakeService, fake_service, served
from tests.test_invariants import uses

from twofold.devices.catalog import get_device, this_cpu_path
from twofold.report.store import Store
from twofold.server.settings import ServerSettings
from twofold.server.snapshot import Watch

KEY = "open-sesame"
BROWSER = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Environment variables that point into a folder of our own, for this process and those it starts."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWOFOLD_RESULTS", str(folder / "results.sqlite"))
        patch.setenv("TWOFOLD_CACHE", str(folder / "cache"))
        path = this_cpu_path()
        path.parent.mkdir(parents=True)
        file = get_device("xeon-6154").model_copy(update={"name": "this-cpu", "confidence": "calibrated"})
        path.write_text(
            yaml.safe_dump(file.model_dump(mode="json", exclude={"generation"})), encoding="utf-8"
        )
        store = Store()
        store.save_comparison(comparison())
        store.save(result("alone", model="another-model"))
        yield folder


def watched(settings: ServerSettings) -> FakeService:
    """A service that is watched as a worker is."""
    return fake_service(settings, watch=Watch, device="cpu", techniques=uses("copyspec"))


class Served(NamedTuple):
    """A service and where it is reached."""

    service: FakeService
    url: str


@pytest.fixture(scope="module")
def open_server(world: Path) -> Iterator[Served]:
    """A server without a key."""
    service = watched(ServerSettings(port=0))
    with served(service) as url:
        yield Served(service, url)


@pytest.fixture(scope="module")
def locked_server(world: Path) -> Iterator[Served]:
    """A server that wants `KEY`."""
    service = watched(ServerSettings(port=0, api_key=KEY))
    with served(service) as url:
        yield Served(service, url)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium; the tests are skipped where there is none. Gone with its module: as long as it is
    there, no other event loop can run."""
    api = pytest.importorskip("playwright.sync_api", reason="the page is tested in a browser with playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine: the page was not tested in a browser")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=BROWSER)
        yield browser
        browser.close()
