"""The HTTP application: every route, behind the limits, with OpenAI's error object for every failure."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from twofold.report.host import twofold_version
from twofold.server import about, health, metrics
from twofold.server.errors import add_handlers
from twofold.server.limits import BODY_SECONDS, ApiKey, BodyLimit, RequestId
from twofold.server.openai import chat, completions, embeddings, models, responses, tokens
from twofold.server.openapi import document
from twofold.server.page import routes as page
from twofold.server.settings import ServerSettings

if TYPE_CHECKING:
    from twofold.server.service import Service

PARTS = (models, chat, completions, responses, embeddings, tokens, health, metrics, about, page)
"""Modules with a function `routes(service)`."""


def create_app(service: Service, settings: ServerSettings) -> FastAPI:
    """The application that serves `service`, which the caller starts and stops."""
    app = FastAPI(
        title="Twofold",
        version=twofold_version(),
        summary="The OpenAI API of a model that runs with published efficiency techniques.",
        docs_url=None,  # these two would load scripts from elsewhere
        redoc_url=None,
    )
    for part in PARTS:
        app.include_router(part.routes(service))
    add_handlers(app)
    app.openapi = cache(  # type: ignore[method-assign]
        lambda: document(app, service.model_name, needs_key=settings.api_key is not None)
    )
    # The last one added is the first to see a request.
    app.add_middleware(BodyLimit, limit=settings.max_body, seconds=min(BODY_SECONDS, settings.timeout))
    if settings.api_key is not None:
        app.add_middleware(ApiKey, key=settings.api_key)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(RequestId)
    return app
