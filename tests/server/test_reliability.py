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
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from tests.models.tiny import tiny_gguf
from tests.server.running import PATIENCE, Running, running, serving_plan, until

from twofold.server.run import bound_socket, http_server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Running]:
    """Eight requests at a time, and 32 that wait."""
    with running(serving_plan(model, max_num_seqs=8, cache_blocks=128), max_queue=32) as found:
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
    await until(lambda: service._dispatcher.num_unfinished == 0)
    await until(lambda: (found := service.snapshots()[name]).used_blocks == found.running == 0)
    await asyncio.sleep(0.2)  # a worker that falls idle checks itself, and breaks where something is wrong
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
        async with listening(server) as address:
            limits = httpx.Limits(max_connections=64)
            async with httpx.AsyncClient(base_url=address, limits=limits, timeout=PATIENCE) as client:

                async def one_of_many() -> None:
                    for number in numbers:
                        await ask(client, number)

                await asyncio.gather(*(one_of_many() for _ in range(64)))
        await all_is_free(server)

    asyncio.run_coroutine_threadsafe(scenario(), server.loop).result(2 * PATIENCE)
    assert outcomes["answered"] == count
    assert outcomes["refused"] > 0, "40 of 64 have room"


def test_two_hundred_clients_that_go_in_the_middle(server: Running) -> None:
    async def go(port: int, number: int) -> bool:
        """Ask, read a little, close the socket; False where it was refused."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = json.dumps(body(f"client {number}", 120, stream=number % 4 != 0)).encode()
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
            async with httpx.AsyncClient(base_url=address) as client:
                assert (await client.post("/v1/completions", json=body("after", 3))).status_code == 200
        assert server.service.num_left - left > 150, "nearly all of them were cancelled, not answered"

    server.run(scenario())


def test_a_worker_that_is_killed(server: Running) -> None:
    service = server.service

    async def scenario() -> None:
        async with (
            listening(server) as address,
            httpx.AsyncClient(base_url=address, timeout=PATIENCE) as client,
        ):
            [pid] = service.worker_pids().values()
            options = body("long", 200, stream=True)
            async with client.stream("POST", "/v1/completions", json=options) as response:
                lines = response.aiter_lines()
                assert (await anext(lines)).startswith("data: ")
                os.kill(pid, signal.SIGKILL)
                rest = [line async for line in lines if line]
            assert rest[-1] != "data: [DONE]"
            assert "error" in json.loads(rest[-1].removeprefix("data: "))
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "unavailable")
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
        process.kill()
        process.communicate()


def test_sigterm_lets_answers_end(model: Path) -> None:
    with command(model, "--drain", "60") as (process, address), httpx.Client(base_url=address) as client:
        with client.stream("POST", "/v1/completions", json=body("long", 200, stream=True)) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            os.killpg(process.pid, signal.SIGTERM)  # the workers too, as service managers do
            refused, last = 0, ""
            for line in lines:
                if line and not refused:
                    late = httpx.post(f"{address}/v1/completions", json=body("late", 3))
                    refused = late.status_code
                    assert float(late.headers["retry-after"]) > 0
                last = line or last
        assert refused == 503
        assert last == "data: [DONE]"
        assert process.wait(PATIENCE) == 0


def test_a_second_signal_ends_it_at_once_and_leaves_nobody(model: Path) -> None:
    with command(model) as (process, address), httpx.Client(base_url=address) as client:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        with client.stream("POST", "/v1/completions", json=body("long", 240, stream=True)) as response:
            assert next(response.iter_lines()).startswith("data: ")
            [worker] = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            os.kill(int(worker), signal.SIGSTOP)  # its answer does not end by itself
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        gone(children)


def test_workers_end_with_their_server(model: Path) -> None:
    with command(model) as (process, _):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.wait()
        gone(children)


def test_an_address_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} on 127.0.0.1 is in use: choose another"):
            bound_socket("127.0.0.1", port)
    with pytest.raises(ValueError, match="has no address here"):
        bound_socket("no.such.host.invalid", 0)


def gone(pids: list[str]) -> None:
    """Returns once none of these processes is there any more."""
    end = time.monotonic() + PATIENCE
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < end, "some are still there"
        time.sleep(0.05)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
