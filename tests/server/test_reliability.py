"""The whole server under stress: real sockets, real worker processes, a tiny model."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from tests import waiting
from tests.models.tiny import tiny_gguf
from tests.server.gated import Gate, gated
from tests.server.running import Running, running, serving_plan, until
from tests.waiting import PATIENCE

from twofold.server.run import bound_socket, http_server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", context=4096)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gated(tmp_path_factory.mktemp("gate")) as found:
        yield found


@pytest.fixture(scope="module")
def server(model: Path, gate: Gate) -> Iterator[Running]:
    """Eight requests at a time, and 72 that wait."""
    with running(serving_plan(model, max_num_seqs=8, cache_blocks=2048), max_queue=72) as found:
        yield found


@asynccontextmanager
async def listening(server: Running) -> AsyncIterator[str]:
    """The address of its API."""
    with bound_socket("127.0.0.1", 0) as sock:
        http = http_server(server.service)
        serving = asyncio.ensure_future(http.serve([sock]))
        await until(lambda: http.started)
        host, port = sock.getsockname()
        yield f"http://{host}:{port}"
        http.should_exit = True
        await serving


async def all_is_free(server: Running) -> None:
    """Nothing runs, no block is taken, and the worker's own check has passed."""
    service = server.service
    [name] = service.worker_pids()
    await server.settled()
    snapshot = service.snapshots()[name]
    assert snapshot.used_blocks == snapshot.running == 0
    assert list(service.worker_pids()) == [name]
    assert service.healthy
    assert not service._streams


def body(prompt: str, tokens: int, *, stream: bool = False) -> dict[str, object]:
    return {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": stream}


def test_a_thousand_requests_none_is_lost(server: Running) -> None:
    rng = random.Random(0)
    count, outcomes = 1000, Counter[str]()

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        tokens, stream = rng.randint(1, 12), number % 3 == 0
        while True:
            text = f"{number} " * rng.randint(1, 8)
            response = await client.post("/v1/completions", json=body(text, tokens, stream=stream))
            if response.status_code != 429:
                break
            outcomes["refused"] += 1
            assert response.json()["error"]["type"] == "rate_limit_error"
            assert float(response.headers["retry-after"]) > 0
            await asyncio.sleep(rng.uniform(0.5, 1.5))
        assert response.status_code == 200
        if stream:
            assert response.text.endswith("data: [DONE]\n\n")
            last = json.loads(response.text.split("\n\n")[-3].removeprefix("data: "))
            assert last["choices"][0]["finish_reason"] == "length"
        else:
            assert response.json()["usage"]["completion_tokens"] == tokens
        outcomes["answered"] += 1

    async def scenario() -> None:
        numbers = iter(range(count))
        [pid] = server.service.worker_pids().values()
        async with listening(server) as address:
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(base_url=address, limits=limits, timeout=PATIENCE) as client:

                async def one_of_many() -> None:
                    for number in numbers:
                        await ask(client, number)

                os.kill(pid, signal.SIGSTOP)  # nobody is answered before somebody was refused
                work = asyncio.gather(*(one_of_many() for _ in range(100)))
                await until(lambda: outcomes["refused"])
                os.kill(pid, signal.SIGCONT)
                await work
        await all_is_free(server)

    asyncio.run_coroutine_threadsafe(scenario(), server.loop).result(4 * PATIENCE)
    assert outcomes["answered"] == count
    assert outcomes["refused"] >= 20, "80 of 100 have room"


def test_two_hundred_clients_that_go_in_the_middle(server: Running) -> None:
    async def go(port: int, number: int) -> bool:
        """Ask, read a little, close the socket; False where it was refused."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = json.dumps(body(f"client {number}", 2000, stream=number % 4 != 0)).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {len(data)}\r\n"
        writer.write(head.encode() + b"content-type: application/json\r\n\r\n" + data)
        begun = True
        if number % 4:
            begun = b" 200 " in await reader.readline()
            for _ in range(number % 7 if begun else 0):
                await reader.readline()
        else:  # whole answers: nothing comes before the end
            await asyncio.sleep(0.02)
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()
        return begun

    async def scenario() -> None:
        left = server.service.num_left
        async with listening(server) as address:
            port = int(address.rpartition(":")[2])
            begun = 0
            for first in range(0, 200, 20):
                begun += sum(await asyncio.gather(*(go(port, first + i) for i in range(20))))
            assert begun == 200
            await all_is_free(server)
            async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client:
                assert (await client.post("/v1/completions", json=body("after", 3))).status_code == 200
        # Those that read nothing may have gone before they were heard.
        assert server.service.num_left - left > 100, "most of them were cancelled, not answered"

    server.run(scenario())


def test_a_worker_that_is_killed(server: Running, gate: Gate) -> None:
    service = server.service

    async def scenario() -> None:
        gate.hold()
        async with (
            listening(server) as address,
            httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client,
        ):
            [pid] = service.worker_pids().values()
            options = body("long", 200, stream=True) | {"logit_bias": {"64": 100}}
            async with client.stream("POST", "/v1/completions", json=options) as response:
                lines = response.aiter_lines()
                assert (await anext(lines)).startswith("data: ")
                gate.shut()
                os.kill(pid, signal.SIGKILL)
                rest = [line async for line in lines if line]
            assert rest[-1] != "data: [DONE]"
            assert "error" in json.loads(rest[-1].removeprefix("data: "))
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "unavailable")
            gate.open()
            waited = await client.post("/v1/completions", json=body("waits for the next worker", 3))
            assert waited.status_code == 200
            assert (await client.get("/health")).status_code == 200

    server.run(scenario())


# --- the command ---


@contextmanager
def command(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`twofold serve` as a process, and its address."""
    call = [sys.executable, "-c", "from twofold.cli import main; main()", "serve", "--model", str(model)]
    limits = ["--threads", "1", "--max-num-seqs", "4", "--cache-blocks", "64", "--model-name", "tiny"]
    process = subprocess.Popen(
        [*call, *limits, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert " on http://127.0.0.1:" in first, first + (process.stderr.read() if process.stderr else "")
        yield process, first.split(" on ")[1].split()[0]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def worker_of(process: subprocess.Popen[str]) -> int:
    """The process id of its only worker."""
    [found] = [
        pid for pid in children_of(process) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return int(found)


def children_of(process: subprocess.Popen[str]) -> list[str]:
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


@contextmanager
def stuck(
    process: subprocess.Popen[str], address: str
) -> Iterator[tuple[httpx.Client, Future[httpx.Response]]]:
    """A client, and the answer to a request that was accepted and is not worked on while this lasts."""
    worker = worker_of(process)
    os.kill(worker, signal.SIGSTOP)
    with httpx.Client(base_url=address, timeout=PATIENCE) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/v1/completions", json=body("long", 200, stream=True))
        waiting.until(lambda: client.get("/health").json()["waiting"] == 1)
        try:
            yield client, answer
        finally:
            with suppress(ProcessLookupError):  # it may have been killed meanwhile
                os.kill(worker, signal.SIGCONT)


def draining(client: httpx.Client) -> bool:
    return bool(client.get("/health").json()["status"] == "draining")


def test_sigterm_lets_answers_end(model: Path) -> None:
    with command(model, "--drain", "600") as (process, address):
        with stuck(process, address) as (client, answer):
            os.killpg(process.pid, signal.SIGTERM)  # the workers too, as service managers do
            waiting.until(lambda: draining(client))
            late = client.post("/v1/completions", json=body("late", 3))
            assert late.status_code == 503
            assert float(late.headers["retry-after"]) > 0
        assert answer.result().text.endswith("data: [DONE]\n\n")
        assert process.wait(PATIENCE) == 0


def test_a_second_signal_ends_it_at_once_and_leaves_nobody(model: Path) -> None:
    with command(model, "--drain", "600") as (process, address):
        children = children_of(process)
        with stuck(process, address) as (client, answer):
            process.send_signal(signal.SIGINT)
            waiting.until(lambda: draining(client))
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
            assert answer.exception() or not answer.result().text.endswith("data: [DONE]\n\n")
        waiting.until(lambda: not any(map(is_alive, children)))


def test_workers_end_with_their_server(model: Path) -> None:
    with command(model) as (process, _):
        children = children_of(process)
        process.kill()
        process.wait()
        waiting.until(lambda: not any(map(is_alive, children)))


def test_an_address_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} on 127.0.0.1 is in use: choose another"):
            bound_socket("127.0.0.1", port)
    with pytest.raises(ValueError, match="has no address here"):
        bound_socket("no.such.host.invalid", 0)


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
