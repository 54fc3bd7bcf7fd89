"""Figures from given times are exact."""

from __future__ import annotations

import math

import pytest

from twofold.loadgen.arrivals import Arrivals
from twofold.loadgen.client import Ask, Exchange
from twofold.loadgen.doubts import doubts
from twofold.loadgen.load import Load
from twofold.loadgen.measure import Generator, Measured, Objective, Summary, latency, measure
from twofold.loadgen.session import Point

ASK = Ask("x", 10, 4)


def exchange(sent: float, *pieces: float, tokens: int | None = None, **rest: object) -> Exchange:
    """A complete answer of one token per piece, unless told otherwise."""
    found = Exchange(ASK, sent, sent, pieces[-1], list(pieces), 10, len(pieces) if tokens is None else tokens)
    for name, value in rest.items():
        setattr(found, name, value)
    return found


def refused(sent: float, kind: str = "HTTP 429") -> Exchange:
    return Exchange(ASK, sent, sent, sent + 0.5, error=kind, message=f"{kind} at {sent}")


def figures(*exchanges: Exchange, objective: str | None = None) -> Measured:
    return measure(exchanges, Generator(0.0, None), Objective.parse(objective) if objective else None)


def test_latencies_of_one_request() -> None:
    x = exchange(1.0, 1.5, 1.7, 2.1, 2.3)
    assert latency("ttft", x) == pytest.approx(0.5)
    assert latency("tpot", x) == pytest.approx(0.8 / 3)
    assert latency("e2e", x) == pytest.approx(1.3)


def test_tokens_per_piece_count_in_tpot_and_not_in_itl() -> None:
    m = figures(exchange(0.0, 1.0, 2.0, 3.0, tokens=9))
    assert m.latencies["tpot"].mean == pytest.approx(2 / 8)
    assert m.latencies["itl"].mean == pytest.approx(1.0)
    assert m.piece_tokens == 3.0


def test_an_answer_that_was_not_streamed_has_no_first_token() -> None:
    m = figures(exchange(0.0, 2.0, tokens=5))
    assert set(m.latencies) == {"e2e"}
    assert m.piece_tokens is None
    assert set(figures(exchange(0.0, 2.0, tokens=1)).latencies) == {"ttft", "e2e"}


def test_percentiles_are_values_that_occurred() -> None:
    summary = Summary.of([float(n) for n in range(100, -1, -1)])
    assert summary == Summary(101, 50.0, 50.0, 90.0, 99.0)
    assert Summary.of([3.0]) == Summary(1, 3.0, 3.0, 3.0, 3.0)
    assert Summary.of([]) is None


def test_throughput_counts_complete_answers_only() -> None:
    m = figures(
        exchange(0.0, 1.0, 2.0, 3.0, 4.0),
        exchange(1.0, 2.0, 5.0),
        refused(2.0),
        refused(3.0),
        refused(4.0, "timeout"),
    )
    assert (m.sent, m.completed, m.refused) == (5, 2, 2)
    assert m.errors == {"HTTP 429": 2, "timeout": 1}
    assert m.messages == {"HTTP 429": "HTTP 429 at 2.0", "timeout": "timeout at 4.0"}
    assert m.seconds == 5.0
    assert m.tokens_per_s == pytest.approx(6 / 5)
    assert m.requests_per_s == pytest.approx(2 / 5)
    assert (m.prompt_tokens, m.output_tokens, m.short) == (20, 6, 1)
    assert m.concurrency_mean == pytest.approx((4 + 4 + 3 * 0.5) / 5)
    assert m.concurrency_peak == 3


def test_requests_that_follow_each_other_do_not_overlap() -> None:
    assert figures(exchange(0.0, 1.0), exchange(1.0, 2.0)).concurrency_peak == 1


def test_nothing_but_failures() -> None:
    m = figures(refused(0.0), refused(1.0), objective="ttft=1")
    assert (m.completed, m.tokens_per_s, m.goodput, m.latencies) == (0, 0.0, 0.0, {})
    assert m.prompt_tokens is None


def test_goodput_counts_what_meets_every_limit() -> None:
    good = exchange(0.0, 0.4, 0.5, 0.6)
    slow_start = exchange(0.0, 0.6, 0.7, 0.8)
    slow_tokens = exchange(0.0, 0.4, 0.6, 0.8)
    one_token = exchange(0.0, 0.4)
    m = figures(good, slow_start, slow_tokens, one_token, refused(0.0), objective="ttft=500ms, tpot=150ms")
    assert m.good == 2
    assert m.goodput == pytest.approx(2 / 0.8)
    assert figures(exchange(0.0, 2.0, tokens=5), objective="ttft=9").good == 0, "its first token was not seen"


def test_an_objective_in_words() -> None:
    assert Objective.parse("ttft=0.5,e2e=2 s").limits == {"ttft": 0.5, "e2e": 2.0}
    assert str(Objective.parse("tpot=50ms")) == "TPOT ≤ 50.0 ms"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--slo is empty"),
        ("tftt=1s", "did you mean 'ttft'"),
        ("ttft", "write NAME=TIME"),
        ("ttft=1kB", "not in s"),
        ("ttft=0", "above 0 seconds"),
        ("itl=1s", "write NAME=TIME"),
    ],
)
def test_objectives_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Objective.parse(text)


def test_usage_tells_cached_tokens() -> None:
    m = figures(exchange(0.0, 1.0, cached_tokens=4), exchange(0.0, 1.0, cached_tokens=None))
    assert m.cached == pytest.approx(4 / 20)
    assert figures(exchange(0.0, 1.0)).cached is None
    assert figures(exchange(0.0, 1.0, prompt_tokens=None)).prompt_tokens is None


def point(measured: Measured, ran_out: bool = False) -> Point:
    return Point(Load(arrivals=Arrivals(2)), [], measured, ran_out)


def test_a_generator_that_was_late_is_said() -> None:
    punctual = [exchange(float(i), i + 0.1, i + 0.2, i + 0.3, i + 0.4) for i in range(50)]
    assert doubts(point(figures(*punctual))) == []
    late = [exchange(i + 0.02, i + 0.12, i + 0.2, i + 0.3, i + 0.4, intended=float(i)) for i in range(50)]
    m = figures(*late)
    assert m.lag is not None
    assert m.lag.p50 == pytest.approx(0.02)
    (said,) = doubts(point(m))
    assert "sent 20.0 ms or more after their time" in said


def test_lag_that_does_not_matter_is_not_said() -> None:
    slow = [exchange(i + 0.02, i + 5.0, i + 5.1, i + 5.2, i + 5.3, intended=float(i)) for i in range(50)]
    assert doubts(point(figures(*slow))) == []


def test_a_generator_that_was_busy_or_ran_out_is_said() -> None:
    x = exchange(0.0, 1.0, 2.0, 3.0, 4.0)
    late = Summary.of([0.3])
    said = " ".join(doubts(point(measure([x], Generator(3.9, late)), ran_out=True)))
    assert "97.5 % of a processor" in said
    assert "clock was late by 300 ms" in said
    assert "before the duration was over" in said
    (short,) = doubts(point(figures(exchange(0.0, 1.0, 1.1))))
    assert "1 of 1 answers are shorter" in short


def test_a_record_is_json() -> None:
    import json

    record = figures(exchange(0.0, 1.0, 2.0), refused(0.5), objective="ttft=2").record()
    assert json.loads(json.dumps(record, allow_nan=False))["latencies"]["ttft"]["mean"] == 1.0
    assert not math.isnan(record["tokens_per_s"])
