"""GET /v1/models and /v1/models/{name}: the one model that is served."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from twofold.plan import Plan
from twofold.report.host import twofold_version
from twofold.server.errors import FAILURES
from twofold.server.openai.embeddings import POOLING
from twofold.server.openai.generation import check_name

if TYPE_CHECKING:
    from twofold.server.service import Service


def fingerprint(plan: Plan) -> str:
    """Equal where plan and version are: what OpenAI's seed promises holds for equal fingerprints."""
    told = f"{twofold_version()} {plan.model_dump_json()}"
    return "fp_" + hashlib.sha256(told.encode()).hexdigest()[:10]


class Model(BaseModel):
    """A model. created: when the server started, in seconds since 1970; max_model_len (ours): tokens of
    prompt and answer together, null until it is loaded; embeddings (ours): what /v1/embeddings gives."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "twofold"
    max_model_len: int | None
    embeddings: str = POOLING


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


def routes(service: Service) -> APIRouter:
    """GET /v1/models."""
    router = APIRouter(tags=["models"])

    def model() -> Model:
        longest = service.ready.max_context if service.ready else None
        return Model(id=service.model_name, created=service.created, max_model_len=longest)

    @router.get("/v1/models", summary="Which models are there?", response_model=ModelList)
    async def all_models() -> Any:
        """The model that this server has."""
        return ModelList(data=[model()])

    @router.get(
        "/v1/models/{name:path}",
        summary="What is this model?",
        response_model=Model,
        responses={404: FAILURES[404]},
    )
    async def one_model(name: str) -> Any:
        """The model by its name."""
        check_name(service, name)
        return model()

    return router
