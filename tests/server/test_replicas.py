"""Two real workers: conversations stay where their cache is, load spreads, a lost worker is forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from itertools import count
from random import Random

import pytest
from tests.models.tiny import tiny_gguf
from tests.server.running import Running, running, serving_plan, until

from twofold.engine.sampling_params import SamplingParams
from twofold.server.messages import Ended, Generate
from twofold.server.service import Service

_ids = count()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers, four requests at a time each."""
    model = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
    with running(serving_plan(model), replicas=2) as found:
        found.run(until(lambda: len(found.service._dispatcher.workers) == 2))
        yield found


class Conversation:
    """A user whose every question comes with all those before."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self.ids = self._message(40)

    def _message(self, length: int) -> list[int]:
        return [self._rng.randrange(10, 200) for _ in range(length)]

    async def turn(self, service: Service) -> Ended:
        """Ask, and have the next question ready."""
        job = Generate(f"turn-{next(_ids)}", tuple(self.ids), SamplingParams(max_tokens=4, ignore_eos=True))
        _, ended = await service.submit(job).collect()
        assert isinstance(ended, Ended)
        self.ids += self._message(20)
        return ended

    def cacheable(self, service: Service) -> int:
        """Tokens of its last prompt that a cache holds in whole blocks."""
        assert service.ready is not None
        size = service.ready.block_size
        return (len(self.ids) - 20) // size * size


def test_conversations_stay_with_their_workers_and_spread_over_them(two: Running) -> None:
    service = two.service
    talks = [Conversation(seed) for seed in range(4)]

    async def talk() -> None:
        for turn in range(4):
            expected = [talk.cacheable(service) for talk in talks]
            ended = await asyncio.gather(*(talk.turn(service) for talk in talks))
            cached = [each.cached_tokens for each in ended]
            assert cached == (expected if turn else [0] * len(talks))
        await two.settled()
        # Both had conversations, and both found what they had cached.
        hits = [snapshot.prefix_hits for snapshot in service.snapshots().values()]
        assert len(hits) == 2
        assert all(hits), hits

    two.run(talk())


def test_a_conversation_moves_when_its_worker_is_lost(two: Running) -> None:
    service = two.service
    talk = Conversation(100)

    async def run() -> None:
        await talk.turn(service)
        assert (await talk.turn(service)).cached_tokens > 0
        dispatcher = service._dispatcher
        asked = Generate("asked", tuple(talk.ids), SamplingParams())
        home = dispatcher._router.choose(asked, list(dispatcher.workers.values()))
        os.kill(service.worker_pids()[home], signal.SIGKILL)
        await until(lambda: home not in dispatcher.workers)
        assert (await talk.turn(service)).cached_tokens == 0
        assert (await talk.turn(service)).cached_tokens > 0

        await until(lambda: len(dispatcher.workers) == 2)
        # It has a new home and stays there, although the old one's successor is idle.
        assert (await talk.turn(service)).cached_tokens > 0

    two.run(run())
