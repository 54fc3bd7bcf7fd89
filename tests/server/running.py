"""A real service with worker processes, driven from tests that are no coroutines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from twofold.plan import Plan
from twofold.server.service import Service
from twofold.server.settings import ServerSettings

T = TypeVar("T")
PATIENCE = 300.0
"""Seconds after which a test has failed; nothing is measured by it."""


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

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work` in the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

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
