"""When requests come and how long they are: seeded, with the means that were asked for."""

from __future__ import annotations

import itertools
import math
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from twofold.loadgen.arrivals import Arrivals
from twofold.loadgen.lengths import Lengths
from twofold.loadgen.load import OPEN_SECONDS, Load
from twofold.plan import WorkloadPlan
from twofold.workloads.workload import make_workload

FOUR = Lengths.parse("4")


def gaps(arrivals: Arrivals, count: int = 20_000) -> list[float]:
    return [b - a for a, b in pairwise(itertools.islice(arrivals.times(3), count + 1))]


@pytest.mark.parametrize(
    ("arrivals", "variation"),
    [
        (Arrivals(5), 1.0),
        (Arrivals(5, "constant"), 0.0),
        (Arrivals(5, "gamma", 0.25), 2.0),
        (Arrivals(5, "gamma", 4.0), 0.5),
    ],
)
def test_arrivals_have_their_rate_and_their_burstiness(arrivals: Arrivals, variation: float) -> None:
    found = gaps(arrivals)
    assert statistics.fmean(found) == pytest.approx(0.2, rel=0.05)
    assert statistics.pstdev(found) / statistics.fmean(found) == pytest.approx(variation, rel=0.05, abs=1e-9)


def test_arrivals_follow_from_the_seed() -> None:
    first, again, other = (list(itertools.islice(Arrivals(2).times(s), 50)) for s in (1, 1, 2))
    assert first == again != other
    assert first[0] == 0.0
    assert first == sorted(first)


def test_poisson_arrivals_are_those_of_a_plan() -> None:
    plan = WorkloadPlan(requests=30, rate=2.5, seed=9)
    workload = make_workload(plan, None, real=False, vocab=100)
    assert [i.time for i in workload.items] == pytest.approx(
        list(itertools.islice(Arrivals(2.5).times(9), 30))
    )


@pytest.mark.parametrize(
    ("text", "mean", "deviation", "low", "high"),
    [
        ("7", 7, 0, 7, 7),
        ("10-30", 20, math.sqrt((21**2 - 1) / 12), 10, 30),
        ("normal:200,20", 200, 20, 1, 1e9),
        ("lognormal:200,150", 200, 150, 1, 1e9),
        ("normal:2,9", None, None, 1, 1e9),
    ],
)
def test_lengths_have_their_distribution(
    text: str, mean: float | None, deviation: float | None, low: float, high: float
) -> None:
    import random

    rng = random.Random(4)
    found = [Lengths.parse(text).draw(rng) for _ in range(40_000)]
    assert min(found) >= low
    assert max(found) <= high
    if mean is not None and deviation is not None:
        assert statistics.fmean(found) == pytest.approx(mean, rel=0.03)
        assert statistics.pstdev(found) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", "9-3", "x", "normal:5", "poisson:5,1", "normal:nan,1", "normal:5,-1", "lognormal:inf,1"],
)
def test_lengths_that_make_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="length"):
        Lengths.parse(text)


def test_a_load_says_how_many_requests_it_has() -> None:
    assert len(Load(concurrency=4, prompt=FOUR).schedule()) == 32
    assert len(Load(concurrency=4, requests=5).schedule()) == 5
    assert all(w.at is None for w in Load(concurrency=1).schedule())
    steady = Arrivals(2, "constant")
    assert [w.at for w in Load(arrivals=steady, requests=3).schedule()] == [0, 0.5, 1]
    assert len(Load(arrivals=steady, duration=10).schedule()) == 21
    assert len(Load(arrivals=steady, duration=10, requests=7).schedule()) == 7
    assert len(Load(arrivals=steady).schedule()) == 2 * OPEN_SECONDS + 1
    assert len(Load(arrivals=Arrivals(0.1, "constant")).schedule()) == 17


def test_lengths_of_a_load_follow_from_its_seed() -> None:
    def drawn(seed: int) -> list[tuple[int, int]]:
        load = Load(
            concurrency=1,
            requests=20,
            prompt=Lengths.parse("5-500"),
            output=Lengths.parse("5-500"),
            seed=seed,
        )
        return [(w.prompt, w.output) for w in load.schedule()]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 10


def test_a_trace_is_played_faster_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n10,5,6\n14,7,8\n30,9,10\n")
    load = Load(trace=path, speed_up=4.0)
    assert load.schedule() == [(0.0, 5, 6), (1.0, 7, 8), (5.0, 9, 10)]
    assert len(Load(trace=path, speed_up=4.0, duration=2.0).schedule()) == 2
    assert len(Load(trace=path, requests=1).schedule()) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "none is given"),
        ({"concurrency": 1, "arrivals": Arrivals(1)}, "concurrency and arrivals are given"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"concurrency": 1, "requests": 0}, "requests must be at least 1"),
        ({"concurrency": 1, "duration": 0.0}, "duration"),
        ({"concurrency": 1, "speed_up": 2.0}, "there is none"),
        ({"trace": Path("t"), "speed_up": 0.0}, "speed-up"),
        ({"concurrency": 1, "shared_prefix": 1.5}, "from 0 to 1"),
        ({"trace": Path("t"), "prompts": ("a",)}, "own lengths"),
    ],
)
def test_loads_that_make_no_sense(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Load(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.0,), "a rate must be above 0"),
        ((math.nan,), "a rate must be above 0"),
        ((1.0, "poison"), "did you mean 'poisson'"),
        ((1.0, "poisson", 2.0), "choose gamma"),
        ((1.0, "gamma", 0.0), "burstiness must be above 0"),
    ],
)
def test_arrivals_that_make_no_sense(given: tuple[object, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Arrivals(*given)  # type: ignore[arg-type]
