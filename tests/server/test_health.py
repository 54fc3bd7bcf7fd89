"""/health and /version."""

from __future__ import annotations

from fastapi.testclient import TestClient
from tests.server.fakes import fake_service

from twofold.report.host import twofold_version
from twofold.server.app import create_app


def test_health_says_whether_requests_are_taken() -> None:
    service = fake_service()
    client = TestClient(create_app(service, service.settings))  # type: ignore[arg-type]
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "running": 0, "waiting": 0})
    service.healthy = False
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    service.ready = None
    assert client.get("/health").json()["status"] == "loading"
    service.draining = True
    assert client.get("/health").json()["status"] == "draining"


def test_version() -> None:
    service = fake_service()
    client = TestClient(create_app(service, service.settings))  # type: ignore[arg-type]
    assert client.get("/version").json() == {"version": twofold_version()}
