"""The process beside the server."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from twofold.server.page import background
from twofold.server.page.background import Background, BusyError


def who() -> int:
    return os.getpid()


def add(a: int, b: int = 0) -> int:
    return a + b


def refuse(field: str) -> None:
    raise KeyError(field, "not so")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def spin() -> None:
    while True:
        pass


def test_calls_go_to_one_other_process_and_errors_come_back() -> None:
    async def main() -> None:
        beside = Background(limit=0.2)
        first, second, total = await asyncio.gather(
            beside.call(who), beside.call(who), beside.call(add, 2, b=3)
        )
        assert first == second != os.getpid()
        assert total == 5
        with pytest.raises(KeyError, match="not so") as refused:
            await beside.call(refuse, "workload.prompt")
        assert refused.value.args == ("workload.prompt", "not so")
        with pytest.raises(ValueError, match=r"more than 0\.2 s"):
            await beside.call(spin)
        with pytest.raises(Exception, match="pickle"):
            await beside.call(lambda: None)
        assert await beside.call(who) == first
        with pytest.raises(RuntimeError, match="died twice"):
            await beside.call(die)
        assert await beside.call(who) not in (first, os.getpid())
        beside.close()

    asyncio.run(main())


def test_more_calls_than_can_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST_WAITING", 2)

    async def main() -> None:
        beside = Background()
        waiting = [asyncio.ensure_future(beside.call(add, i)) for i in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="try again"):
            await beside.call(add, 2)
        waiting[1].cancel()
        assert await waiting[0] == 0
        assert await beside.call(add, 3) == 3
        beside.close()

    asyncio.run(main())
