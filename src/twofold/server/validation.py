"""From pydantic's list of errors to one sentence, the field's name as OpenAI writes it, and a code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNKNOWN_FIELD = "unknown_parameter"


def complaint(errors: Sequence[Mapping[str, Any]], body: Any) -> tuple[str, str | None, str | None]:
    """(message, param, code) for the error that lies deepest in the request: of the alternatives that a field
    may be, the one that was meant has gone furthest."""
    located = [(_path(e, body), e) for e in errors]
    depth = max(len(path) for path, _ in located)
    deepest = [(path, e) for path, e in located if len(path) == depth]
    path, first = deepest[0]
    param = _param(path)
    if first["type"] == "json_invalid":
        return (
            f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}",
            None,
            "invalid_json",
        )
    if body is None or isinstance(body, bytes):
        return "a body in JSON is needed, with content-type: application/json", None, None
    said = dict.fromkeys(_sentence(e) for p, e in deepest if p == path)
    message = " or ".join(said)
    code = first["type"] if first["type"] == UNKNOWN_FIELD else None
    return (f"{param}: {message}" if param else message), param, code


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == "union_tag_not_found":
        return f"an object with the field {error['ctx']['discriminator']} is needed"
    text = str(error["msg"]).removeprefix("Value error, ")
    return "this field is required" if error["type"] == "missing" else text[:1].lower() + text[1:]


def _path(error: Mapping[str, Any], body: Any) -> tuple[int | str, ...]:
    """Where in the body the error lies. Pydantic's location also names the alternatives that it tried, which
    are left out; a field that is missing or unknown is the last step."""
    steps: tuple[int | str, ...] = tuple(error["loc"])
    steps = steps[1:] if steps and steps[0] in ("body", "query", "path") else steps
    named = error["type"] == "missing" and steps[-1:]
    if error["type"] == UNKNOWN_FIELD:
        named = (error["ctx"]["field"],)
    found: list[int | str] = []
    at = body
    for step in steps:
        if _leads_on(at, step):
            at = at[step]
            found.append(step)
    return (*found, *(named or ()))


def _leads_on(at: Any, step: int | str) -> bool:
    if isinstance(at, list):
        return isinstance(step, int) and 0 <= step < len(at)
    return isinstance(at, Mapping) and step in at


def _param(path: Sequence[int | str]) -> str | None:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or None
