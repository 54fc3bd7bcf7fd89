"""Workers on the machines of a Ray cluster: Ray finds them a place and tells when they die.

A worker there is the same loop as here, and talks to the server over TCP as it does here over a socket pair:
what it reads and writes does not pass through Ray. It proves with a secret, which reaches it through Ray,
that it is the one that was started; nothing that others send is unpacked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
from typing import Any

from twofold.plan import Plan
from twofold.server.processes import Launch, WorkerProcess
from twofold.server.worker import share_of_machine, work

SECRET_BYTES = 32
CONNECT_SECONDS = 10.0
"""How long a connection may take to prove itself."""


def on_cluster(plan: Plan, replicas: int) -> Launch:
    """`replicas` workers for `plan`, spread over the cluster that this process is connected to. Those of one
    machine share it."""
    import ray

    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    plan = share_of_machine(plan, -(-replicas // nodes))
    actor = ray.remote(max_restarts=0, scheduling_strategy="SPREAD", **resources(plan))(Place)

    async def launch(name: str, protocol: asyncio.Protocol) -> WorkerProcess:
        process = RayProcess(actor.remote(), plan, protocol)
        process.start(ray.util.get_node_ip_address())
        return process

    return launch


def resources(plan: Plan) -> dict[str, float]:
    """What Ray sets aside for a worker, all of it on one machine."""
    tp = plan.parallel.tp
    return {"num_cpus": tp * (plan.engine.threads or 1), "num_gpus": 0 if plan.device == "cpu" else tp}


def check_room(plan: Plan, replicas: int) -> None:
    """ValueError where the cluster that this process is connected to is too small for `replicas` workers."""
    import ray

    needs, there = resources(plan), ray.cluster_resources()
    for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        if needs[name] * replicas > there.get(kind, 0):
            raise ValueError(
                f"{replicas} workers need {needs[name] * replicas:g} {kind}s, and the Ray cluster has "
                f"{there.get(kind, 0):g}: start fewer (--replicas), or add machines"
            )


class Place:
    """An actor in whose process a worker runs."""

    def pid(self) -> int:
        """The id of its process."""
        return os.getpid()

    def run(self, address: tuple[str, int], secret: bytes, plan: Plan) -> None:
        """Serve the server at `address` until it says stop or goes."""
        sock = socket.create_connection(address, CONNECT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(secret)
        work(sock, plan)


class RayProcess:
    """A worker in an actor. See `processes.WorkerProcess`."""

    def __init__(self, actor: Any, plan: Plan, protocol: asyncio.Protocol) -> None:
        self._actor = actor
        self._plan = plan
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._life: asyncio.Task[None] | None = None
        self._pid: int | None = None
        self._why = "its actor has ended"

    @property
    def pid(self) -> int | None:
        """Its process id on its machine, once it runs."""
        return self._pid

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._life is not None and not self._life.done()

    def why(self) -> str:
        """See `WorkerProcess`."""
        return self._why

    def start(self, host: str) -> None:
        """Have the worker connect to `host`, on which this process runs, as soon as Ray has a place for
        it."""
        self._life = asyncio.get_running_loop().create_task(self._live(host))

    async def leave(self, timeout: float) -> None:
        """See `WorkerProcess`."""
        import ray

        assert self._life is not None
        await asyncio.wait([self._life], timeout=max(timeout, 0.0))
        ray.kill(self._actor)
        await asyncio.wait([self._life])

    async def _live(self, host: str) -> None:
        """From its start to its end."""
        import ray

        with socket.create_server((host, 0)) as listener:
            listener.setblocking(False)
            address, secret = listener.getsockname()[:2], secrets.token_bytes(SECRET_BYTES)
            pid = self._actor.pid.remote()
            end = asyncio.ensure_future(self._actor.run.remote(address, secret, self._plan))
            connecting = asyncio.ensure_future(self._connect(listener, secret))
            try:
                self._pid = await pid
                await asyncio.wait([end, connecting], return_when=asyncio.FIRST_COMPLETED)
                await end
            except ray.exceptions.RayError as error:
                self._why = str(error).strip()
            finally:
                end.cancel()
                connecting.cancel()
                await asyncio.wait([end, connecting])
        if self._transport is None:
            self._protocol.connection_lost(None)
        else:
            self._transport.abort()

    async def _connect(self, listener: socket.socket, secret: bytes) -> None:
        """Wait for the worker; others are turned away."""
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            with contextlib.suppress(OSError, TimeoutError):
                if hmac.compare_digest(await asyncio.wait_for(_proof(sock), CONNECT_SECONDS), secret):
                    break
            sock.close()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport, _ = await loop.create_connection(lambda: self._protocol, sock=sock)
        self._transport = transport


async def _proof(sock: socket.socket) -> bytes:
    """The first bytes that come, as many as a secret has; fewer where no more come."""
    proof = b""
    while len(proof) < SECRET_BYTES:
        more = await asyncio.get_running_loop().sock_recv(sock, SECRET_BYTES - len(proof))
        if not more:
            break
        proof += more
    return proof
