"""A whole measurement: look at the server, make the texts, warm up, play each load of the sweep in turn."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from twofold.loadgen.client import Ask, Client, EndpointKind, Exchange, Style
from twofold.loadgen.connection import Http
from twofold.loadgen.drive import Clock, Lateness, WallClock, closed_loop, open_loop
from twofold.loadgen.load import Load, Wanted
from twofold.loadgen.measure import Generator, Measured, Objective, Summary, measure
from twofold.loadgen.prompts import PromptMaker
from twofold.loadgen.server import Server, explore, find_about, find_model

if TYPE_CHECKING:
    from twofold.models.tensors import Tokenizer

Progress = Callable[[str, int, int], None]
FindTokenizer = Callable[[str], "tuple[Tokenizer, str] | None"]
"""The tokenizer of the model of that name and what it is called here; None where it is not at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to measure: where, by which endpoint, and what is sent before.

    url: scheme, host, port and the path before /v1; model: its name there (None: the first that the server
    lists); headers: sent with every request; timeout: seconds per request; warm_up: requests that are not
    counted; objective: what goodput is judged by.
    """

    url: str
    model: str | None = None
    endpoint: EndpointKind = "chat"
    stream: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0
    warm_up: int = 2
    objective: Objective | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise ValueError(f"timeout must be above 0 seconds, not {self.timeout:g}")


@dataclass(frozen=True, slots=True)
class Point:
    """One load of a sweep: what was sent, what became of it, the figures."""

    load: Load
    exchanges: list[Exchange]
    measured: Measured
    ran_out: bool

    @property
    def name(self) -> str:
        """What distinguishes it in a sweep."""
        load = self.load
        if load.concurrency is not None:
            return f"{load.concurrency} at a time"
        return str(load.arrivals) if load.arrivals is not None else "trace"


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that was measured of one server."""

    settings: Settings
    server: Server
    points: list[Point]


def run_session(
    settings: Settings,
    loads: Sequence[Load],
    find_tokenizer: FindTokenizer,
    progress: Progress | None = None,
) -> Session:
    """Measure the server under each of `loads` in turn. OSError where it cannot be reached, ValueError where
    it refuses or where a load cannot be made."""
    work = _session(settings, loads, find_tokenizer, progress or (lambda *_: None))
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop, which takes a third of the processor time, where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _session(
    settings: Settings, loads: Sequence[Load], find_tokenizer: FindTokenizer, progress: Progress
) -> Session:
    clock = WallClock()
    async with Http(settings.url, clock.now, settings.headers) as http:
        client = Client(http, clock.now, timeout=settings.timeout)
        try:
            async with asyncio.timeout(settings.timeout):
                model = settings.model or await find_model(http)
                about = await find_about(http)
        except TimeoutError:
            raise ConnectionError(f"{settings.url} says nothing within {settings.timeout:g} s") from None
        style = Style(model=model, endpoint=settings.endpoint, stream=settings.stream)
        server = await explore(http, client, style, about, find_tokenizer(_known_as(about, model)))
        points = []
        for number, load in enumerate(loads):
            asks = await make_asks(server, load, number, progress)
            if number == 0:
                await _warm_up(client, server, load, settings.warm_up)
            points.append(await _play(client, server.style, load, asks, clock, settings.objective, progress))
    return Session(settings, server, points)


def _known_as(about: Mapping[str, Any] | None, model: str) -> str:
    """What the server's model is called here: a server of ours tells its plan."""
    if about is None:
        return model
    from twofold.plan import Plan

    return Plan.from_dict(about["given"], "the server's plan").model


async def make_asks(server: Server, load: Load, number: int, progress: Progress) -> list[Ask]:
    """The requests of load `number` of a session with their texts."""
    wanted = load.schedule()
    if not wanted:
        raise ValueError(f"the load {load} holds no request")
    if load.prompts:
        return [Ask(load.prompts[i % len(load.prompts)], 0, w.output, w.at) for i, w in enumerate(wanted)]
    maker = _maker(server, load, f"{load.seed}:{number}")
    asks = []
    for index, (at, prompt, output) in enumerate(wanted):
        asks.append(Ask(await maker.make(index, prompt), prompt, output, at))
        progress("making prompts", index + 1, len(wanted))
    return asks


def _maker(server: Server, load: Load, seed: str) -> PromptMaker:
    return PromptMaker(server.counter, around=server.around or 0, shared=load.shared_prefix, seed=seed)


async def _warm_up(client: Client, server: Server, load: Load, count: int) -> None:
    """Requests like the load's with texts of their own, all at a time, which also opens connections."""
    maker = _maker(server, load, f"{load.seed}:warm-up")
    wanted: list[Wanted] = load.schedule()[:count]
    texts = [await maker.make(i, w.prompt) for i, w in enumerate(wanted)]
    asks = [Ask(text, w.prompt, w.output) for text, w in zip(texts, wanted, strict=True)]
    await asyncio.gather(*(client.send(server.style, ask, 0.0, 0.0) for ask in asks))


async def _play(
    client: Client,
    style: Style,
    load: Load,
    asks: Sequence[Ask],
    clock: Clock,
    objective: Objective | None,
    progress: Progress,
) -> Point:
    done = 0

    async def send(ask: Ask, start: float, intended: float) -> Exchange:
        nonlocal done
        exchange = await client.send(style, ask, start, intended)
        done += 1
        progress(str(load), done, len(asks))
        return exchange

    before = time.process_time()
    async with Lateness(clock) as late:
        if load.concurrency is None:
            exchanges = await open_loop(send, asks, clock)
        else:
            exchanges = await closed_loop(send, asks, load.concurrency, clock, load.duration)
    generator = Generator(time.process_time() - before, Summary.of(late.seen))
    ran_out = load.concurrency is not None and load.duration is not None and len(exchanges) == len(asks)
    return Point(load, exchanges, measure(exchanges, generator, objective), ran_out)


def sweep(load: Load, *, concurrencies: Sequence[int] = (), rates: Sequence[float] = ()) -> list[Load]:
    """`load` at each concurrency or rate."""
    if concurrencies:
        return [replace(load, concurrency=n) for n in concurrencies]
    arrivals = load.arrivals
    assert arrivals is not None, "a sweep over rates needs arrivals"
    return [replace(load, arrivals=replace(arrivals, rate=rate)) for rate in rates]
