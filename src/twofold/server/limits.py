"""Who may ask and how much: the API key, the size of a body, a name for every answer. Plain ASGI, so that
streams pass through untouched."""

from __future__ import annotations

import asyncio
import hmac
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twofold.server.errors import ApiError

BODY_SECONDS = 30.0
"""Seconds in which a request's body must have come."""
OPEN_PATHS = frozenset({"/", "/health", "/favicon.ico"})
"""What needs no key: what load balancers ask, and the page, which asks its user for the key."""
OPEN_PREFIXES = ("/page/",)
"""The page's files. They come with the package and say nothing about the model or its users."""


class RequestId:
    """Every answer carries `x-request-id`, by which it is found in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        name = f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = name

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        await self._app(scope, receive, send_named)


class ApiKey:
    """Refuses requests that lack `Authorization: Bearer <key>`, except for `OPEN_PATHS` and
    `OPEN_PREFIXES`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in OPEN_PATHS or path.startswith(OPEN_PREFIXES):
            return await self._app(scope, receive, send)
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # The comparison takes as long for a nearly right key as for a wrong one.
        right = hmac.compare_digest(given.strip().encode("latin-1"), self._key)
        if right and scheme.lower() == "bearer":
            return await self._app(scope, receive, send)
        what = "this API key is not the server's" if given else "an API key is needed"
        error = ApiError(
            401,
            f"{what}: send the header 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
        await error.response()(scope, receive, send)


class BodyLimit:
    """Refuses bodies of more than `limit` bytes: by their announced length, and by counting while they come,
    since a chunked upload announces none. And those that are not there after `seconds`."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float) -> None:
        self._app, self._limit, self._seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            return await self._too_large().response()(scope, receive, send)
        seen, due = 0, asyncio.get_running_loop().time() + self._seconds
        whole = False

        async def counted() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise self._error(
                    408, f"the body was not there after {self._seconds:g} seconds", "timeout"
                ) from None
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > self._limit:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> ApiError:
        message = f"the body has more than {self._limit} bytes, which is the limit of this server"
        return self._error(413, message, "body_too_large")

    def _error(self, status: int, message: str, code: str) -> ApiError:
        # What is left of the body is not read, so the connection cannot be used again.
        return ApiError(status, message, code=code, headers={"connection": "close"})
