"""Whether the server can answer, and which version it is: `/health` and `/version`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from twofold.report.host import twofold_version

if TYPE_CHECKING:
    from twofold.server.service import Service

RETRY_AFTER = 5
"""Seconds after which a server that cannot answer yet is worth another try."""

State = Literal["ok", "loading", "unavailable", "draining"]


class Health(BaseModel):
    """What a load balancer or an orchestrator asks for; status code 200 means `ok`, 503 everything else."""

    status: State = Field(
        description="ok: requests are accepted; loading: no worker has come up yet; unavailable: none is up "
        "now, one is being restarted; draining: the server is shutting down."
    )
    running: int = Field(description="Requests that are being answered.")
    waiting: int = Field(description="Accepted requests that have yielded nothing yet.")


class Version(BaseModel):
    """The server's version."""

    version: str = Field(examples=["0.1.0"])


def state(service: Service) -> State:
    """What `/health` says."""
    if service.draining:
        return "draining"
    if service.ready is None:
        return "loading"
    return "ok" if service.healthy else "unavailable"


def routes(service: Service) -> APIRouter:
    """GET /health and /version."""
    router = APIRouter(tags=["server"])

    @router.get(
        "/health",
        summary="Can it answer?",
        response_model=Health,
        responses={503: {"model": Health, "description": "Not now: loading, draining, or no worker is up."}},
    )
    async def health(response: Response) -> Health:
        """200 where requests are accepted, 503 where they are not."""
        now = state(service)
        if now != "ok":
            response.status_code = 503
            response.headers["Retry-After"] = str(RETRY_AFTER)
        return Health(status=now, running=service.num_running, waiting=service.num_waiting)

    # Load balancers may ask without wanting the body.
    router.head("/health", include_in_schema=False)(health)

    @router.get("/version", summary="Which version?", response_model=Version)
    async def version() -> Version:
        """The version of Twofold."""
        return Version(version=twofold_version())

    return router
