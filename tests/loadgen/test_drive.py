"""Who sends when, under a clock that only the test moves."""

from __future__ import annotations

import asyncio
import heapq

from twofold.loadgen.client import Ask, Exchange
from twofold.loadgen.drive import Lateness, closed_loop, open_loop


class VirtualClock:
    """Time that jumps to the next sleeper when nobody else can run."""

    def __init__(self) -> None:
        self.time = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        wake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.time + seconds, len(self._sleepers) + id(wake), wake))
        await wake

    async def run(self, work: asyncio.Task[list[Exchange]]) -> list[Exchange]:
        while not work.done():
            for _ in range(20):  # whatever can run does
                await asyncio.sleep(0)
            if self._sleepers and not work.done():
                moment, _, wake = heapq.heappop(self._sleepers)
                self.time = max(self.time, moment)
                if not wake.done():
                    wake.set_result(None)
        return await work


def asks(*times: float | None) -> list[Ask]:
    return [Ask(str(i), 1, 1, at) for i, at in enumerate(times)]


def play(mode: str, wanted: list[Ask], seconds: float, **rest: float) -> list[Exchange]:
    """Every answer takes `seconds`."""

    async def main() -> list[Exchange]:
        clock = VirtualClock()

        async def send(ask: Ask, start: float, intended: float) -> Exchange:
            sent = clock.now() - start
            await clock.sleep(seconds)
            return Exchange(ask, intended - start, sent, clock.now() - start)

        if mode == "open":
            work = open_loop(send, wanted, clock)
        else:
            work = closed_loop(send, wanted, int(rest["clients"]), clock, rest.get("duration"))
        return await clock.run(asyncio.ensure_future(work))

    return asyncio.run(main())


def test_an_open_loop_waits_for_no_answer() -> None:
    found = play("open", asks(0.0, 1.0, 1.0, 2.5), seconds=1000.0)
    assert [x.sent for x in found] == [0.0, 1.0, 1.0, 2.5]
    assert [x.intended for x in found] == [0.0, 1.0, 1.0, 2.5]


def test_a_closed_loop_keeps_its_clients_going() -> None:
    found = play("closed", asks(*[None] * 7), seconds=2.0, clients=3)
    assert [x.sent for x in found] == [0, 0, 0, 2, 2, 2, 4]
    assert sorted(x.ask.text for x in found) == list("0123456")


def test_a_closed_loop_stops_sending_after_its_duration() -> None:
    found = play("closed", asks(*[None] * 100), seconds=2.0, clients=2, duration=5.0)
    assert [x.sent for x in found] == [0, 0, 2, 2, 4, 4]
    assert max(x.ended for x in found) == 6.0


def test_a_sender_that_is_held_up_shows_its_lag() -> None:
    """The clock jumps by 3 s during the second sending, as if the process had been stopped."""

    async def main() -> list[Exchange]:
        clock = VirtualClock()

        async def send(ask: Ask, start: float, intended: float) -> Exchange:
            sent = clock.now() - start
            if ask.text == "1":
                clock.time += 3.0
            return Exchange(ask, intended - start, sent, clock.now() - start)

        return await clock.run(asyncio.ensure_future(open_loop(send, asks(0.0, 1.0, 2.0, 3.0, 9.0), clock)))

    found = asyncio.run(main())
    assert [x.sent - x.intended for x in found] == [0.0, 0.0, 2.0, 1.0, 0.0]


def test_lateness_of_the_event_loop() -> None:
    async def main() -> list[float]:
        clock = VirtualClock()

        async def work() -> list[Exchange]:
            async with Lateness(clock, every=0.5) as late:
                await clock.sleep(1.1)
                clock.time += 2.0  # somebody held the loop
                await clock.sleep(1.0)
            return late.seen  # type: ignore[return-value]

        return await clock.run(asyncio.ensure_future(work()))  # type: ignore[return-value]

    seen = asyncio.run(main())
    assert seen[:2] == [0.0, 0.0]
    assert max(seen) > 1.5
