"""`twofold serve --ray`: workers on the machines of a Ray cluster, the API behind Ray Serve.

One Ray Serve replica holds the same `Service`, and answers with the same application, as a server on one
machine; its workers are actors that Ray spreads over the cluster. What decides about requests is the same
`Dispatcher`. Ray Serve's proxies, one on each machine that has part in it, pass HTTP on to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from twofold.models.text import load_tokenizer
from twofold.plan import Plan
from twofold.server.messages import Ready
from twofold.server.ray_workers import check_room, on_cluster
from twofold.server.run import (
    LAST_WRITES,
    Announce,
    Signals,
    address_of,
    bound_socket,
    check_device,
    first_of,
)
from twofold.server.service import STOP_SECONDS, Service
from twofold.server.settings import ServerSettings
from twofold.server.workers import WorkerFailedError

APPLICATION = "twofold"
LOCAL = "local"
MOST_AT_ONCE = 1_000_000
"""Requests that Ray Serve lets through: how many is the dispatcher's decision."""


class Ingress:
    """The replica: a `Service` whose workers are on the cluster, and the application."""

    async def __init__(self, plan: Plan, settings: ServerSettings) -> None:  # type: ignore[misc]
        self._service = Service(plan, settings, launch=on_cluster(plan, settings.replicas))
        await self._service.start()

    def __serve_build_asgi_app__(self) -> Any:
        """The application that Ray Serve passes requests to."""
        from twofold.server.app import create_app

        return create_app(self._service, self._service.settings)

    def about(self) -> tuple[Ready, str]:
        """What is served, and what clients call it."""
        assert self._service.ready is not None
        return self._service.ready, self._service.model_name

    async def stop(self) -> None:
        """Refuse new requests, let running ones end, then stop the workers."""
        await self._service.stop()


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """See `run.Serving`."""

    ready: Ready | None
    model_name: str
    settings: ServerSettings


def serve_on_ray(plan: Plan, settings: ServerSettings, address: str, announce: Announce) -> None:
    """Serve `plan` on the Ray cluster at `address` ("auto" finds one, "local" starts one) until SIGTERM or
    SIGINT; running answers then get `settings.drain` seconds. A second signal ends it at once
    (KeyboardInterrupt).

    announce: told what is served and its address once it is. ValueError where Ray is not installed, no
    cluster answers, it is too small, or plan or address cannot work; WorkerFailedError where the workers do
    not start.
    """
    check_device(plan)
    load_tokenizer(plan.model)  # says at once where there is no such model
    with bound_socket(settings.host, settings.port) as sock:  # tells whether it can be had, and which is free
        port, url = sock.getsockname()[1], address_of(sock)
    with _cluster(address, plan, settings), _application(plan, settings, port) as handle:
        ready, name = handle.about.remote().result()
        announce(_Elsewhere(ready, name, settings), url)
        asyncio.run(_until_stopped(handle, settings.drain + STOP_SECONDS))


async def _until_stopped(handle: Any, patience: float) -> None:
    """Wait for a signal, then for the replica to have answered what it runs."""
    signals = Signals()
    await first_of(signals.first)
    response = handle.stop.remote()
    stopping = asyncio.ensure_future(asyncio.to_thread(response.result, timeout_s=patience))
    await first_of(stopping, signals.second)
    if not stopping.done():
        response.cancel()
        raise KeyboardInterrupt
    await stopping


@contextmanager
def _cluster(address: str, plan: Plan, settings: ServerSettings) -> Iterator[None]:
    """Connected to a cluster that has room for the workers; one that is started here is stopped in the
    end."""
    try:
        import ray
        from ray import serve
    except ImportError:
        raise ValueError("--ray needs Ray: pip install 'twofold[ray]'") from None
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    given: dict[str, Any] = {"address": address}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        given["include_dashboard"] = False
    try:
        ray.init(**given, namespace=APPLICATION, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at {address!r}: {error}") from None
    try:
        check_room(plan, settings.replicas)
        yield
    finally:
        if address == LOCAL:
            serve.shutdown()
        ray.shutdown()


@contextmanager
def _application(plan: Plan, settings: ServerSettings, port: int) -> Iterator[Any]:
    """A handle of the replica, which has started its workers; the application goes in the end."""
    from ray import serve

    options = serve.config.HTTPOptions(host=settings.host, port=port)
    serve.start(proxy_location="EveryNode", http_options=options)
    deployment = serve.deployment(
        serve.ingress()(Ingress),
        name=APPLICATION,
        num_replicas=1,
        max_ongoing_requests=MOST_AT_ONCE,
        graceful_shutdown_timeout_s=LAST_WRITES,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    )
    try:
        try:
            handle = serve.run(deployment.bind(plan, settings), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise WorkerFailedError(str(error)) from None
        yield handle
    finally:
        serve.delete(APPLICATION)
