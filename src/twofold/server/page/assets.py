"""The page's own files, with the headers that keep everything else out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import Request, Response

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, nothing inline: text that a model writes can neither run nor load anything."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, their type, and a tag that changes with them."""

    body: bytes
    type: str
    tag: str


@cache
def assets() -> dict[str, Asset]:
    """Every file of `static/` by name; read once."""
    found = {}
    for file in (resources.files("twofold.server.page") / "static").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            body = file.read_bytes()
            found[file.name] = Asset(body, kind, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    return found


def serve(name: str, request: Request) -> Response:
    """The file called `name`; 404 where there is none, 304 where the browser has it."""
    asset = assets().get(name)
    if asset is None:
        return Response("there is no such file\n", 404, HEADERS, "text/plain; charset=utf-8")
    headers = {**HEADERS, "ETag": asset.tag}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(None, 304, headers)
    return Response(asset.body, 200, headers, asset.type)
