"""HTTP/1.1 with as little work per piece of an answer as possible: what the load generator computes, a server
on the same machine lacks, and it delays the times that are taken.

Pieces are handed on within the callback in which they come in; nothing is awaited until the answer has ended.
The general clients cost several times as much per piece (`benchmarks/serve_peer.py` prints what this one
costs).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast
from urllib.parse import urlsplit

import httptools

Sink = Callable[[bytes, float], None]
"""Takes a piece of a body and when it came, in the clock's seconds."""


@dataclass(slots=True)
class Response:
    """Status and headers (names in lower case) of an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class _Connection(asyncio.Protocol):
    """One connection, which carries one request at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._sink: Sink | None = None
        self._end: asyncio.Future[Response] | None = None
        self.open = False
        self.heard = False  # whether any byte of the present answer has come

    async def request(self, data: bytes, sink: Callable[[Response], Sink]) -> Response:
        """Send `data`, a whole request, and hand the answer's body to what `sink` returns for its head.
        ConnectionError where the connection ends before the answer; ValueError where it is not HTTP."""
        assert self._transport is not None
        assert self._end is None, "one request at a time"
        self._response, self._choose, self._sink = Response(), sink, None
        self._parser = httptools.HttpResponseParser(self)
        self._end = asyncio.get_running_loop().create_future()
        self.heard = False
        self._transport.write(data)
        try:
            return await self._end
        except BaseException:
            self.close()  # what is left of the answer must not be taken for the next one's
            raise
        finally:
            self._end = None

    def close(self) -> None:
        """Close at once; a server that still answers sees its client go."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport, self.open = cast(asyncio.Transport, transport), True

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        if self._end is None or self._end.done():
            self.close()  # nobody asked
            return
        self.heard = True
        self._now = self._clock()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # What a sink raises comes wrapped; it is the reason.
            self._fail(ValueError(str(error.__context__ or error)))

    def connection_lost(self, reason: Exception | None) -> None:
        """The connection has ended."""
        self.open = False
        if self._end is None or self._end.done():
            return
        headers = self._response.headers
        bounded = "content-length" in headers or "transfer-encoding" in headers
        if reason is None and self._response.status and not bounded:
            self._end.set_result(self._response)  # such an answer ends with its connection
        else:
            self._fail(ConnectionResetError(str(reason or "the server closed the connection")))

    def _fail(self, reason: Exception) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_exception(reason)

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._response.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._response.status = self._parser.get_status_code()
        self._sink = self._choose(self._response)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        assert self._sink is not None
        self._sink(piece, self._now)

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if not self._parser.should_keep_alive():
            self.close()
        if self._end is not None and not self._end.done():
            self._end.set_result(self._response)


class Http:
    """Connections to the server at `url` (http or https, host, port, and the path that all endpoints begin
    with), kept and used again; as many as there are requests at a time.

    headers: sent with every request. clock: in whose seconds pieces are timed. An async context manager that
    closes all connections. ValueError for an address that is none.
    """

    def __init__(
        self, url: str, clock: Callable[[], float], headers: Mapping[str, str] | None = None
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server; write http://HOST:PORT")
        self.secure, self.host = parts.scheme == "https", parts.hostname
        self.port = parts.port or (443 if self.secure else 80)
        self.path = parts.path.rstrip("/").removesuffix("/v1")
        self._clock = clock
        own = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept-Encoding": "identity",
            "User-Agent": "twofold",
        }
        self._head = "".join(f"{k}: {v}\r\n" for k, v in (own | dict(headers or {})).items())
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, path: str, body: bytes, sink: Callable[[Response], Sink]
    ) -> Response:
        """Send a request and hand the answer's body to what `sink` returns for its head, piece by piece.

        OSError where there is no connection; ConnectionResetError where it ends before the answer does;
        ValueError for an answer that is not HTTP.
        """
        head = f"{method} {self.path}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n"
        kind = "Content-Type: application/json\r\n" if body else ""
        data = f"{head}{kind}\r\n".encode() + body
        while self._idle:
            connection = self._idle.pop()
            if not connection.open:
                continue
            try:
                return await self._use(connection, data, sink)
            except ConnectionError:
                if connection.heard:
                    raise
                # The server closed an idle connection as we took it up again; on a new one nothing is lost.
                break
        return await self._use(await self._connect(), data, sink)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        return await self.whole("GET", path, b"")

    async def whole(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and whole body of an answer."""
        pieces: list[bytes] = []
        response = await self.request(method, path, body, lambda _: lambda piece, _: pieces.append(piece))
        return response.status, b"".join(pieces)

    async def _use(self, connection: _Connection, data: bytes, sink: Callable[[Response], Sink]) -> Response:
        response = await connection.request(data, sink)
        if connection.open:
            self._idle.append(connection)
        return response

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        secure = ssl.create_default_context() if self.secure else None
        _, connection = await loop.create_connection(
            lambda: _Connection(self._clock), self.host, self.port, ssl=secure
        )
        return connection

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()


def is_local(url: str) -> bool:
    """Whether the server at `url` is on this machine, as far as its address tells."""
    host = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
