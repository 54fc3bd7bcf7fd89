"""How the page's data goes out: JSON, or why there is none."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import orjson
from fastapi import Request, Response

from twofold.server.errors import ApiError, bad
from twofold.server.page.background import BusyError
from twofold.server.page.fragment import FieldError

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


async def answer(asked: Awaitable[Any]) -> Response:
    """What `asked` yields. ApiError 400 for what a user can mend, with the field's path as its param; 503
    where too much is waiting."""
    try:
        return as_json(await asked)
    except FieldError as error:
        raise bad(str(error), error.field) from None
    except ValueError as error:
        raise bad(str(error)) from None
    except BusyError as error:
        raise ApiError(503, str(error), code="busy", retry_after=1) from None


def as_json(value: Any) -> Response:
    """`value` as JSON that is stored nowhere."""
    return Response(orjson.dumps(value), 200, _HEADERS, "application/json")


async def read_json(request: Request) -> Any:
    """The request's body; ValueError where it is not JSON."""
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"the body is not JSON: {error}") from None
