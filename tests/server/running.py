"""A real service with worker processes, driven from tests that are no coroutines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.waiting import PATIENCE

from twofold.plan import Plan
from twofold.server.messages import RequestEvent
from twofold.server.service import Service
from twofold.server.settings import ServerSettings

T = TypeVar("T")


def serving_plan(model: Path, **engine: object) -> Plan:
    """A plan for the tiny model at `model` with small limits, on one thread."""
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "threads": 1, "cache_blocks": 64}
    return Plan.from_dict({"model": str(model), "engine": {**limits, **engine}})


class Running:
    """A started service in an event loop of its own."""

    def __init__(self, plan: Plan, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.service = Service(plan, ServerSettings(**{"model_name": "tiny", **settings}))
        self._unreported: set[str] = set()
        self._listen()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work` in the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    async def settled(self) -> None:
        """Returns once nothing is unfinished and every worker has reported since its last event, as it does
        when it falls idle and has checked itself."""
        await until(lambda: not self.service._dispatcher.num_unfinished and not self._unreported)

    def _listen(self) -> None:
        """Follow which workers have said something since they reported."""
        service, events = self.service, self.service.worker_events
        status, lost = service.worker_status, service.worker_lost

        def said(worker: str, what: Sequence[RequestEvent]) -> None:
            self._unreported.add(worker)
            events(worker, what)

        def reported(worker: str, snapshot: Any) -> None:
            self._unreported.discard(worker)
            status(worker, snapshot)

        def gone(worker: str) -> None:
            self._unreported.discard(worker)
            lost(worker)

        service.worker_events, service.worker_status = said, reported  # type: ignore[method-assign]
        service.worker_lost = gone  # type: ignore[method-assign]

    def close(self) -> None:
        """Stop at once."""
        self.run(self.service.kill())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def running(plan: Plan, **settings: Any) -> Iterator[Running]:
    """A service that is up."""
    found = Running(plan, **settings)
    try:
        found.run(found.service.start())
        yield found
    finally:
        found.close()


async def until(condition: Callable[[], object]) -> None:
    """Returns once `condition` holds; fails after `PATIENCE` seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.02)
