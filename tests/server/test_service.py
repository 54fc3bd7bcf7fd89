"""The service with real worker processes: answers, refusals, deadlines, lost workers, the end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.models.tiny import tiny_gguf
from tests.server.gated import Gate, gated
from tests.server.running import Running, running, serving_plan, until

from twofold.engine.sampling_params import SamplingParams
from twofold.kernels.cpu.threads import default_threads
from twofold.server.dispatcher import Refused
from twofold.server.messages import Chunk, Embed, Embedded, Ended, Failed, Generate, Ready, RequestEvent
from twofold.server.service import Service, Stream
from twofold.server.settings import ServerSettings

PROMPT = tuple(range(10, 40))
_ids = count()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with gated(tmp_path_factory.mktemp("gate")) as found:
        yield found


@pytest.fixture(scope="module")
def one(model: Path, gate: Gate) -> Iterator[Running]:
    """One worker, four requests at a time and two that wait."""
    with running(serving_plan(model, max_num_batched_tokens=256), max_queue=2) as found:
        yield found


def job(output: int = 12, **params: object) -> Generate:
    given = SamplingParams(max_tokens=output, ignore_eos=True, **params)  # type: ignore[arg-type]
    return Generate(f"job-{next(_ids)}", PROMPT, given)


async def read(stream: Stream) -> list[RequestEvent]:
    async with stream:
        return [event async for event in stream]


def test_it_knows_what_it_serves(one: Running) -> None:
    service = one.service
    assert isinstance(service.ready, Ready)
    assert (service.ready.max_num_seqs, service.ready.num_blocks) == (4, 64)
    assert service.ready.about["derived"]["threads"] == 1
    assert service.model_name == "tiny"
    assert service.healthy
    assert service.tokenizer.decode(service.tokenizer.encode("Hello")) == "Hello"


def test_streamed_and_collected_answers_are_the_same(one: Running, gate: Gate) -> None:
    seen: list[tuple[RequestEvent, float]] = []
    one.service.observe(lambda event, seconds: seen.append((event, seconds)))

    async def ask() -> tuple[list[RequestEvent], tuple[Chunk, object]]:
        gate.hold()
        stream = one.service.submit(job())
        first = await anext(stream)
        gate.open()
        return [first, *await read(stream)], await one.service.submit(job()).collect()

    events, (whole, last) = one.run(ask())
    assert isinstance(events[-1], Ended)
    assert isinstance(last, Ended)
    chunks = [event for event in events if isinstance(event, Chunk)]
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert sum(chunk.num_tokens for chunk in chunks) == whole.num_tokens == 12
    assert sum(isinstance(event, Ended) for event, _ in seen) == 2
    assert all(seconds > 0 for _, seconds in seen)
    assert one.service.num_running == one.service.num_waiting == 0


def test_chunks_that_pile_up_are_handed_out_as_one(one: Running) -> None:
    async def ask() -> list[RequestEvent]:
        stream = one.service.submit(job(logprobs=0))
        await until(lambda: one.service._dispatcher.num_unfinished == 0)  # all has come, nobody has read it
        return [event async for event in stream]

    whole, ended = one.run(ask())
    assert isinstance(whole, Chunk)
    assert isinstance(ended, Ended)
    assert whole.num_tokens == len(whole.tokens) == 12


def test_embeddings_and_mistakes_have_answers_too(one: Running) -> None:
    async def ask() -> tuple[RequestEvent, RequestEvent]:
        _, vector = await one.service.submit(Embed("vector", PROMPT)).collect()
        _, failed = await one.service.submit(Generate("bad", (), SamplingParams())).collect()
        return vector, failed

    vector, failed = one.run(ask())
    assert isinstance(vector, Embedded)
    assert len(vector.vector) == 256
    assert isinstance(failed, Failed)
    assert failed.kind == "invalid"


def test_a_full_queue_refuses_and_a_client_that_leaves_makes_room(one: Running) -> None:
    service = one.service

    async def ask() -> list[RequestEvent]:
        refused, left = service.refused["queue_full"], service.num_left
        streams = [service.submit(job(200)) for _ in range(6)]
        with pytest.raises(Refused) as error:
            service.submit(job())
        assert error.value.kind == "queue_full"
        assert error.value.retry_after > 0
        for stream in streams[:5]:
            stream.close()
            stream.close()
        assert (service.refused["queue_full"], service.num_left) == (refused + 1, left + 5)
        streams[5].close()
        await one.settled()
        assert service.snapshots()["0"].used_blocks == 0
        assert [event async for event in streams[0]] == []
        return await read(service.submit(job()))

    assert isinstance(one.run(ask())[-1], Ended)


def test_a_killed_worker_is_replaced(one: Running, gate: Gate) -> None:
    service = one.service

    async def ask() -> None:
        [(name, pid)] = service.worker_pids().items()
        gate.hold()
        running = [service.submit(job(200)) for _ in range(4)]
        waiting = service.submit(job())  # of a worker with four seats: has yielded nothing
        begun = [await anext(stream) for stream in running]
        assert all(isinstance(event, Chunk) for event in begun)
        gate.shut()
        os.kill(pid, signal.SIGKILL)
        for stream in running:
            last = (await read(stream))[-1]
            assert isinstance(last, Failed)
            assert last.kind == "lost"
        assert not service.healthy
        gate.open()
        assert isinstance((await read(waiting))[-1], Ended), "it is answered by the next worker"
        assert service.healthy
        assert isinstance((await read(service.submit(job())))[-1], Ended)
        assert name not in service.worker_pids()

    one.run(ask())


def test_replicas_share_the_machine(model: Path) -> None:
    with running(serving_plan(model, threads=None), replicas=2) as two:
        service = two.service

        async def ask() -> None:
            await until(lambda: len(service._dispatcher.workers) == 2)
            answers = await asyncio.gather(*(service.submit(job()).collect() for _ in range(12)))
            assert all(isinstance(last, Ended) for _, last in answers)
            assert service.ready is not None
            derived = service.ready.about["derived"]
            assert derived["threads"] == max(1, default_threads() // 2)

        two.run(ask())


def test_what_hangs_ends_in_time(model: Path) -> None:
    with running(serving_plan(model), timeout=2.0, drain=0.3) as one:
        service = one.service

        async def ask() -> None:
            [pid] = service.worker_pids().values()
            os.kill(pid, signal.SIGSTOP)
            _, failed = await service.submit(job()).collect()
            assert isinstance(failed, Failed)
            assert failed.kind == "timeout"
            service._dispatcher._timeout = 1e6  # of those to come: what ends them is the end of the server
            last = service.submit(job())
            stopping = asyncio.ensure_future(service.stop())
            await asyncio.sleep(0)
            with pytest.raises(Refused) as error:
                service.submit(job())
            assert error.value.kind == "draining"
            _, failed = await last.collect()
            assert isinstance(failed, Failed)
            assert failed.kind == "draining"
            os.kill(pid, signal.SIGCONT)
            await stopping

        one.run(ask())
        assert all(not w.process.is_alive() for w in service._workers._by_name.values())


def test_bad_plans_are_said_at_once(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown model"):
        Service(serving_plan(Path("smolm2-135m")), ServerSettings())
    with (
        pytest.raises(ValueError, match="does not fit"),
        running(serving_plan(model, cache_blocks=None, memory=100_000)),
    ):
        pass
