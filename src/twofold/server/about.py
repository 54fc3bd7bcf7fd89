"""`/plan`: what is on, with every default that was derived, what a prediction of it says for this machine,
and what was measured since the server started."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from twofold.report.schema import Figure
from twofold.server.described import Described, describe
from twofold.server.errors import ApiError
from twofold.server.messages import Embedded, Ended, Ready, RequestEvent
from twofold.server.page.background import Background
from twofold.server.snapshot import Snapshot

if TYPE_CHECKING:
    from twofold.server.service import Service

PREDICTION_SECONDS = 60.0
"""Longest that predicting may take."""


class TechniqueOn(BaseModel):
    """A technique that is on."""

    name: str
    title: str
    source: str
    summary: str
    seams: list[str] = Field(description="What it changes.")
    lossless: bool = Field(description="Whether greedy answers equal those of the unmodified model.")
    needs: list[str] = Field(description="What the rest of the plan must have.")
    params: dict[str, Any] = Field(description="All its parameters, defaults included.")


class Prediction(BaseModel):
    """What the plan would do on this machine under a stated load, alone on it."""

    device: str
    load: str
    figures: dict[str, Figure | None] = Field(description="Means with their intervals (low, mid, high).")
    memory: dict[str, float] = Field(description="Peak bytes by part.")
    confidence: str = Field(description="How well predictions for this machine are validated.")
    intervals: str = Field(description="What the intervals are.")
    missing: dict[str, str] = Field(description="Why a figure is null.")


class Measured(BaseModel):
    """What was measured since the server started: means over all answers, in seconds; null before any."""

    seconds: float = Field(description="Since the start.")
    requests: int
    prompt_tokens: int
    output_tokens: int
    ttft: float | None
    tpot: float | None
    e2e: float | None
    tokens_per_s: float | None = Field(description="Of all workers, over their recent steps.")
    step: float | None = Field(description="Mean of all steps.")
    step_predicted: float | None = Field(description="Mean of the predictions of the same steps.")
    step_prediction_missing: str | None


class About(BaseModel):
    """The answer of `/plan`."""

    model: str
    given: dict[str, Any] = Field(description="The plan, as it was given.")
    techniques: list[TechniqueOn]
    derived: dict[str, Any] = Field(description="Every default of the engine that was decided.")
    memory: dict[str, int] = Field(description="Bytes by part, as planned for each worker.")
    replicas: int
    workers: list[str] = Field(description="Those that report.")
    prediction: Prediction | None
    prediction_missing: str | None = Field(description="Why there is no prediction.")
    measured: Measured


class Since:
    """Sums over the answers since its creation; listens to `service`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._start = time.monotonic()
        self._requests = self._prompt = self._output = 0
        self._answers = self._later = 0
        self._first = self._total = self._rest = 0.0
        service.observe(self._observe)

    def _observe(self, event: RequestEvent, seconds: float) -> None:
        del seconds
        if not isinstance(event, Ended | Embedded):
            return
        self._requests += 1
        self._prompt += event.prompt_tokens
        if isinstance(event, Ended) and event.output_tokens:
            self._answers += 1
            self._output += event.output_tokens
            self._first += event.first_token
            self._total += event.total
            self._later += event.output_tokens - 1
            self._rest += event.total - event.first_token

    def measured(self) -> Measured:
        """What was measured."""
        snapshots: list[Snapshot] = list(self._service.snapshots().values())
        steps = sum(s.steps for s in snapshots)
        predicted = [s for s in snapshots if s.predicted_seconds is not None]
        speeds = [s.tokens_per_s for s in snapshots if s.tokens_per_s is not None]
        return Measured(
            seconds=time.monotonic() - self._start,
            requests=self._requests,
            prompt_tokens=self._prompt,
            output_tokens=self._output,
            ttft=_ratio(self._first, self._answers),
            tpot=_ratio(self._rest, self._later),
            e2e=_ratio(self._total, self._answers),
            tokens_per_s=sum(speeds) if speeds else None,
            step=_ratio(sum(s.step_seconds for s in snapshots), steps),
            step_predicted=_ratio(
                sum(s.predicted_seconds or 0.0 for s in predicted), sum(s.steps for s in predicted)
            ),
            step_prediction_missing=next((s.prediction_missing for s in snapshots), None),
        )


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None


class Once:
    """What is computed once about the plan of `service`, in a process that ends with that."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._task: asyncio.Task[Described] | None = None

    async def get(self, ready: Ready) -> Described:
        """The techniques, and the prediction or why there is none. Several may wait; those who leave do not
        stop it, and where it fails the next one tries again."""
        if self._task is None:
            self._task = asyncio.create_task(self._compute(ready))
        task = self._task
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._task is task:
                self._task = None
            raise

    async def _compute(self, ready: Ready) -> Described:
        service = self._service
        background = Background(PREDICTION_SECONDS)
        try:
            return await background.call(describe, service.plan, service.settings.replicas, ready.max_context)
        finally:
            background.close()


def routes(service: Service) -> APIRouter:
    """GET /plan."""
    router = APIRouter(tags=["server"])
    since, once = Since(service), Once(service)

    @router.get(
        "/plan",
        summary="What is on, and what is to be expected?",
        response_model=About,
        responses={503: {"description": "No worker has come up yet."}},
    )
    async def about() -> About:
        """The plan as given and as resolved, its prediction for this machine, and what was measured. The
        first answer takes as long as predicting does, some seconds."""
        ready = service.ready
        if ready is None:
            raise ApiError(503, "no worker has come up yet: try again in a moment", retry_after=5)
        found = await once.get(ready)
        return About(
            model=service.model_name,
            given=service.plan.model_dump(mode="json", exclude_unset=True),
            techniques=[TechniqueOn(**technique) for technique in found.techniques],
            derived=ready.about.get("derived", {}),
            memory=ready.about.get("memory", {}),
            replicas=service.settings.replicas,
            workers=sorted(service.snapshots()),
            prediction=None if found.prediction is None else Prediction(**found.prediction),
            prediction_missing=found.missing,
            measured=since.measured(),
        )

    return router
