"""Every failure as OpenAI's error object: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from twofold.errors import nearest
from twofold.server.dispatcher import RefusalKind, Refused
from twofold.server.messages import Failed, FailureKind
from twofold.server.validation import complaint
from twofold.server.wire import dumps

log = logging.getLogger(__name__)

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_REFUSED: dict[RefusalKind, int] = {"queue_full": 429, "draining": 503, "unavailable": 503}
_FAILED: dict[FailureKind, int] = {
    "invalid": 400,
    "timeout": 408,
    "lost": 503,
    "draining": 503,
    "internal": 500,
}
_RETRY_AFTER_LOSS = 1
"""Seconds: another worker takes over at once, or the lost one is started again."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""JSON schema of the object, for the OpenAPI document."""

FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"schema": SCHEMA}}}
    for status, what in {
        400: "The request is at fault; `param` names the field.",
        401: "The API key is missing or wrong.",
        404: "There is no such model.",
        408: "It took longer than the server allows.",
        413: "The body is too large.",
        429: "The queue is full; see Retry-After.",
        500: "The server failed inside.",
        503: "No worker is up, or the server shuts down; see Retry-After.",
    }.items()
}
"""The responses of every endpoint that generates, for the OpenAPI document."""


class ApiError(HTTPException):
    """A failure with its HTTP status. param: the field that is at fault; code: a word for programs;
    retry_after: whole seconds after which the same request may succeed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        retry = {} if retry_after is None else {"retry-after": str(retry_after)}
        super().__init__(status, message, {**retry, **(headers or {})})
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = _TYPES.get(self.status_code)
        kind = kind or ("server_error" if self.status_code in (408, *range(500, 600)) else "")
        error = {"message": self.detail, "type": kind or "invalid_request_error"}
        return {"error": {**error, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        return Response(dumps(self.body()), self.status_code, self.headers, "application/json")


class ClientGoneError(Exception):
    """The client has closed the connection; nobody reads the answer."""


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is at fault."""
    return ApiError(400, message, param=param, code=code)


def of_refused(refused: Refused) -> ApiError:
    """429 where the queue is full, 503 where the server drains or has no worker; with Retry-After."""
    seconds = max(1, math.ceil(refused.retry_after))
    return ApiError(_REFUSED[refused.kind], refused.message, code=refused.kind, retry_after=seconds)


def of_failed(failed: Failed) -> ApiError:
    """What a request's end means in HTTP. What went wrong inside is for the log alone."""
    status = _FAILED[failed.kind]
    retry = _RETRY_AFTER_LOSS if failed.kind in ("lost", "draining", "timeout") else None
    if failed.kind == "internal":
        log.error("request %s failed: %s", failed.id, failed.message)
        return _internal()
    code = None if failed.kind == "invalid" else failed.kind
    return ApiError(status, failed.message, code=code, retry_after=retry)


def add_handlers(app: FastAPI) -> None:
    """Let `app` answer every failure so."""

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        message, param, code = complaint(error.errors(), error.body)
        return bad(message, param, code).response()

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        return _of_http(app, request, error).response()

    @app.exception_handler(ClientGoneError)
    async def _(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # what logs call it; it is sent nowhere

    @app.exception_handler(Exception)
    async def _(request: Request, error: Exception) -> Response:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
        return _internal().response()


def _internal() -> ApiError:
    return ApiError(500, "the server failed inside; its log says where", code="internal")


def _of_http(app: FastAPI, request: Request, error: HTTPException) -> ApiError:
    if isinstance(error, ApiError):
        return error
    path, headers = request.url.path, dict(error.headers or {})
    if error.status_code == 404:
        hint = nearest(path, app.openapi()["paths"])
        return ApiError(404, f"there is nothing at {request.method} {path}; {hint}", code="unknown_url")
    if error.status_code == 405:
        allowed = headers.get("Allow") or headers.get("allow") or "another method"
        message = f"{request.method} is not allowed for {path}; allowed: {allowed}"
        return ApiError(405, message, code="method_not_allowed", headers=headers)
    if error.status_code == 400:  # the framework's word for all that its reader of JSON raises
        message = "the body is no JSON that can be read: not UTF-8, nested too deep, or a number too long"
        return ApiError(400, message, code="invalid_json")
    return ApiError(error.status_code, str(error.detail), headers=headers)
