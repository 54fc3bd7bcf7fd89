"""A whole measurement of a server that is not ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.loadgen.fake_server import Body, FakeServer, Reply, steady

from twofold.loadgen.arrivals import Arrivals
from twofold.loadgen.counting import ServerCounter, WordCounter
from twofold.loadgen.lengths import Lengths
from twofold.loadgen.load import Load
from twofold.loadgen.measure import measure
from twofold.loadgen.pictures import pictures
from twofold.loadgen.report import Shown, grids, records
from twofold.loadgen.session import Point, Session, Settings, run_session, sweep
from twofold.report.table import grid_to_markdown

LOAD = Load(concurrency=2, requests=5, prompt=Lengths.parse("30"), output=Lengths.parse("4"), seed=1)


def run(server: FakeServer, *loads: Load, **settings: Any) -> Session:
    return run_session(Settings(url=server.url, **settings), loads or [LOAD], lambda name: None)


def refusing(*fields: str, status: int = 400) -> Callable[[str, Body], Reply]:
    """A server that does not know those fields."""

    def reply(path: str, body: Body) -> Reply:
        unknown = [name for name in fields if name in body]
        if unknown:
            return Reply([(0.0, b'{"error": {"message": "unknown field"}}')], status=status)
        return steady()(path, body)

    return reply


def test_every_request_is_sent_once_and_counted() -> None:
    def reply(path: str, body: Body) -> Reply:
        """Three clients are answered once all three have asked."""
        answer = steady()(path, body)
        answer.hold = 1 + 2 + 5 + 3 if len(server.bodies) > 1 + 2 + 5 else 0
        return answer

    with FakeServer(reply) as server:
        session = run(server, LOAD, replace(LOAD, concurrency=3, requests=7), warm_up=2)
        texts = [body["messages"][0]["content"] for body in server.bodies]
    assert len(texts) == 1 + 2 + 5 + 7, "a probe, the warm-up, both loads"
    assert len(set(texts)) == len(texts), "no text twice, or a prefix cache would answer"
    first, second = (point.measured for point in session.points)
    assert (first.sent, first.completed, first.prompt_tokens, first.output_tokens) == (5, 5, 150, 20)
    assert (second.sent, second.concurrency_peak) == (7, 3)
    assert (first.counted, first.short, session.server.notes) == ("usage", 0, ())
    assert first.generator.cpu > 0


def test_an_open_loop_sends_although_nothing_is_answered() -> None:
    """The server answers nobody before it has heard of all."""
    load = Load(
        arrivals=Arrivals(200, "constant"), requests=20, prompt=Lengths.parse("5"), output=LOAD.output
    )

    def reply(path: str, body: Body) -> Reply:
        answer = steady()(path, body)
        answer.hold = 21 if body["max_tokens"] == 4 else 0  # the probe asks for less
        return answer

    with FakeServer(reply) as server:
        (point,) = run(server, load, warm_up=0).points
    assert [x.intended for x in point.exchanges] == pytest.approx([i / 200 for i in range(20)])
    assert (point.measured.completed, point.measured.concurrency_peak) == (20, 20)


@pytest.mark.parametrize(
    ("reply", "ignore_eos", "usage"),
    [
        (steady(), True, True),
        (refusing("ignore_eos"), False, True),
        (refusing("stream_options", status=422), True, False),
        (refusing("ignore_eos", "stream_options"), False, False),
    ],
)
def test_fields_that_a_server_does_not_know_are_left_out_and_said(
    reply: Callable[[str, Body], Reply], ignore_eos: bool, usage: bool
) -> None:
    with FakeServer(reply) as server:
        session = run(server)
    style, notes = session.server.style, " ".join(session.server.notes)
    assert (style.ignore_eos, style.usage) == (ignore_eos, usage)
    assert ("does not know ignore_eos" in notes) == (not ignore_eos)
    assert ("tells no usage" in notes) == (not usage)
    measured = session.points[0].measured
    assert measured.completed == 5
    assert measured.counted == ("usage" if usage else "pieces")
    assert measured.output_tokens == 20


def test_who_counts_tokens() -> None:
    with FakeServer() as server:
        found = run(server).server
        assert isinstance(found.counter, ServerCounter)
        assert found.around == 0
    with FakeServer(documents={"/tokenize": {"no": "count"}}) as server:
        session = run(server)
        assert isinstance(session.server.counter, WordCounter)
        assert session.server.counter.tokens_per_word == pytest.approx(1.0), (
            "learned from the usage of the probe"
        )
        assert session.points[0].measured.prompt_tokens == 150


def test_prompts_of_a_file_are_sent_as_they_are() -> None:
    load = replace(LOAD, prompts=("one", "two words"), requests=3)
    with FakeServer() as server:
        run(server, load, warm_up=0)
        texts = [body["messages"][0]["content"] for body in server.bodies[1:]]
    assert sorted(texts) == ["one", "one", "two words"]


def test_a_stock_that_ran_out_is_said() -> None:
    with FakeServer() as server:
        (point,) = run(server, replace(LOAD, duration=60.0)).points
    assert point.ran_out


def test_a_server_that_refuses_says_why() -> None:
    with FakeServer(refusing("model")) as server, pytest.raises(ValueError, match="HTTP 400: unknown field"):
        run(server)
    with (
        FakeServer(documents={"/v1/models": {"data": []}}) as server,
        pytest.raises(ValueError, match="--model"),
    ):
        run(server)
    with pytest.raises(ConnectionError, match="no server answers at"):
        run(server)


def test_refusals_of_a_full_server_are_counted() -> None:
    taken = 0

    def reply(path: str, body: Body) -> Reply:
        nonlocal taken
        taken += 1
        return steady()(path, body) if taken < 5 else Reply([(0.0, b"{}")], status=429)

    with FakeServer(reply) as server:
        (point,) = run(server, warm_up=1).points
    assert (point.measured.completed, point.measured.refused) == (2, 3)


def test_what_is_shown_holds_the_figures() -> None:
    with FakeServer() as server:
        session = run(server, *sweep(LOAD, concurrencies=[1, 2]))
    shown = [Shown(point) for point in session.points]
    text = "\n".join(map(grid_to_markdown, grids(session, shown)))
    for word in ("Sweep", "TTFT", "TPOT", "ITL", "2 at a time", "refused (429)", "processor time"):
        assert word in text
    record = records(session, shown)
    assert [p["concurrency"] for p in record["points"]] == [1, 2]
    assert record["points"][0]["measured"]["completed"] == 5


@pytest.mark.parametrize(("gap", "first"), [(0.1, ["TTFT", "TPOT"]), (0.0, ["TTFT"])])
def test_what_took_time_is_drawn(gap: float, first: list[str]) -> None:
    """Pieces that a client was too busy to read one by one are no time apart."""
    with FakeServer() as server:
        points = run(server, *sweep(LOAD, concurrencies=[1, 2])).points
    shown = []
    for point in points:
        exchanges = [
            replace(x, pieces=[x.sent + 0.5 + gap * i for i in range(4)], ended=x.sent + 1.0)
            for x in point.exchanges
        ]
        shown.append(Shown(Point(point.load, exchanges, measure(exchanges, point.measured.generator), False)))
    drawn = pictures(shown)
    assert [p.title for p in drawn][: len(first) + 1] == [*first, "Throughput"]
    assert all("<svg" in p.svg for p in drawn)
