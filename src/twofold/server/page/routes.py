"""The page and its data: `/`, its files under `/page/`, and `/api/`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import APIRouter, FastAPI, Query, Request, Response

from twofold.server.page import choices, predict, results
from twofold.server.page.answers import answer, as_json, read_json
from twofold.server.page.assets import serve
from twofold.server.page.background import Background
from twofold.server.page.live import live
from twofold.server.page.recent import Recent

if TYPE_CHECKING:
    from twofold.server.service import Service

REMEMBERED = 4096
"""Predictions and estimates that are kept: going back to a choice costs nothing."""


def routes(service: Service) -> APIRouter:
    """Everything that the page needs of a server. Its data comes from `service` and, where that takes more
    than a moment, from a process beside it."""
    background = Background()
    explorer = Explorer(background)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        background.close()

    router = APIRouter(lifespan=lifespan, include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        return serve("index.html", request)

    @router.get("/page/{name}")
    async def asset(name: str, request: Request) -> Response:
        return serve(name, request)

    @router.get("/api/live")
    async def get_live() -> Response:
        return as_json(live(service))

    @router.get("/api/choices")
    async def get_choices() -> Response:
        return await answer(explorer.choices(service.plan.model_dump(mode="json")))

    @router.post("/api/predict")
    async def post_predict(request: Request) -> Response:
        return await answer(explorer.predict(request))

    @router.post("/api/sweep")
    async def post_sweep(request: Request, over: Literal["devices", "concurrency"]) -> Response:
        return await answer(explorer.devices(request) if over == "devices" else explorer.loads(request))

    @router.get("/api/results")
    async def get_results() -> Response:
        return await answer(background.call(results.rows))

    @router.get("/api/results/compare")
    async def get_compare(ids: Annotated[list[int], Query(min_length=1, max_length=64)]) -> Response:
        return await answer(background.call(results.compare, ids))

    @router.get("/api/comparisons/{number}")
    async def get_comparison(number: int) -> Response:
        return await answer(background.call(results.comparison, number))

    return router


class Explorer:
    """What the explore view asks, answered in `background` and remembered."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._recent = Recent(REMEMBERED)

    async def choices(self, served: dict[str, Any]) -> dict[str, Any]:
        """What there is to choose from; served: the plan that the server runs, which the view begins with."""
        found = await self._recent.get("choices", lambda: self._background.call(choices.choices))
        return {**found, "served": served}

    async def predict(self, request: Request) -> dict[str, Any]:
        """The prediction of the fragment in the body."""
        values = await read_json(request)
        found: dict[str, Any] = await self._recent.get(
            ("predict", _key(values)), lambda: self._background.call(predict.predict, values)
        )
        return found

    async def loads(self, request: Request) -> dict[str, Any]:
        """Estimates of the fragment in the body over numbers of requests at a time."""
        return {"points": await self._estimates(await read_json(request), None)}

    async def devices(self, request: Request) -> dict[str, Any]:
        """Estimates of the fragment in the body on every device: one call each, so that a prediction that is
        asked for meanwhile comes in between, and none once the browser has gone."""
        values = await read_json(request)
        points: list[dict[str, Any]] = []
        for device in await self._recent.get("devices", lambda: self._background.call(predict.sweep_devices)):
            if await request.is_disconnected():
                break
            points += await self._estimates(values, device)
        return {"points": points}

    async def _estimates(self, values: Any, device: str | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._recent.get(
            ("estimates", device, _key(values)),
            lambda: self._background.call(predict.estimates, values, device),
        )
        return found


def _key(values: Any) -> bytes:
    """What tells one fragment from another."""
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
