"""From a plan to a server that listens, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Protocol

import uvicorn

from twofold.devices.registry import is_real
from twofold.plan import Plan
from twofold.server.messages import Ready
from twofold.server.service import Service
from twofold.server.settings import ServerSettings

KEEP_ALIVE = 65
"""Seconds that an idle connection stays open: longer than those of common clients and proxies, so that it is
they who close it."""
LAST_WRITES = 5
"""Seconds that the last answers get to leave once all requests have ended."""


class Serving(Protocol):
    """What is served: a `Service`, or what is known of one elsewhere."""

    @property
    def ready(self) -> Ready | None:
        """What the first worker reported."""

    @property
    def model_name(self) -> str:
        """What clients call the model."""

    @property
    def settings(self) -> ServerSettings:
        """Limits and access."""


Announce = Callable[[Serving, str], None]


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: ours let running answers end first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


def serve(
    plan: Plan,
    settings: ServerSettings,
    announce: Announce,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Serve `plan` until SIGTERM or SIGINT: new requests are refused from then on, running ones get
    `settings.drain` seconds. A second signal ends it at once (KeyboardInterrupt).

    announce: told what is served and its address once it listens; progress: told (what, done, total) before.
    ValueError for a plan or an address that cannot work; WorkerFailedError where the engine does not start.
    """
    check_device(plan)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s: %(message)s")
    logging.getLogger("twofold").setLevel(logging.INFO)
    with bound_socket(settings.host, settings.port) as sock, asyncio.Runner(loop_factory=_loop()) as runner:
        runner.run(_serve(Service(plan, settings, progress=progress), sock, announce))


def check_device(plan: Plan) -> None:
    """ValueError where the plan's device computes no text."""
    if not is_real(plan.device):
        raise ValueError(f"{plan.device!r} is a modelled device and computes no text; use 'cpu' or 'cuda'")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that has taken its address and does not listen yet. ValueError where it cannot have it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ValueError(f"host {host!r} has no address here: {error.strerror}") from None
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            why = "is in use: choose another with --port, or --port 0 for any that is free"
        else:
            why = f"cannot be had: {error.strerror}"
        raise ValueError(f"port {port} on {host} {why}") from None
    return sock


def address_of(sock: socket.socket) -> str:
    """The URL under which a bound socket is reached."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def http_server(service: Service) -> uvicorn.Server:
    """What answers HTTP for `service`, which is started and stopped elsewhere, as are signals."""
    from twofold.server.app import create_app

    return _Server(
        uvicorn.Config(
            create_app(service, service.settings),
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST_WRITES,
        )
    )


async def _serve(service: Service, sock: socket.socket, announce: Announce) -> None:
    signals = Signals()
    starting = asyncio.ensure_future(service.start())
    await first_of(starting, signals.first)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return
    await starting  # raises what went wrong
    gc.freeze()  # what is there now stays: the collector need not look at it again in the middle of an answer
    serving = asyncio.ensure_future(_http(service, sock, announce, signals))
    try:
        await first_of(serving, signals.second)
        if not serving.done():
            raise KeyboardInterrupt
        await serving
    finally:
        serving.cancel()
        await service.kill()


async def _http(service: Service, sock: socket.socket, announce: Announce, signals: Signals) -> None:
    """Listen until the first signal, then until everything is answered."""
    server = http_server(service)
    listening = asyncio.ensure_future(server.serve([sock]))
    while not (server.started or listening.done()):
        await asyncio.sleep(0.01)
    announce(service, address_of(sock))
    await first_of(listening, signals.first)
    await service.stop()  # it still listens, to tell newcomers that it will not answer
    server.should_exit = True
    await listening


class Signals:
    """SIGINT and SIGTERM as futures: the first one, and the one after."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.second: asyncio.Future[None] = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._came)

    def _came(self) -> None:
        for future in (self.first, self.second):
            if not future.done():
                future.set_result(None)
                return


async def first_of(*futures: asyncio.Future[None]) -> None:
    """Wait for one of them."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The faster event loop where there is one for this system."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
