"""The search finds what brute force finds, and keeps what must hold."""

from __future__ import annotations

import pytest
from tests.explore.spaces import exploration, search_of

from twofold.explore.evaluate import latency_of
from twofold.explore.genetic import evolve
from twofold.explore.search import REJECTED

SLO = {"ttft_p90": "300 ms", "tpot_p90": "15 ms"}


def test_the_front_is_that_of_brute_force() -> None:
    search = search_of(exploration(slo=SLO))
    found = search.enumerate()
    brute = search_of(exploration(slo=SLO))
    met = {}
    for number in range(len(brute.space)):
        candidate = brute.space.at(number)
        if brute.bounds.refusal(candidate.deployment)[0]:
            continue
        (verdict,) = brute.judge([candidate])
        if not verdict.constraint:
            met[number] = brute.values(verdict)
    front = {
        number: values
        for number, values in met.items()
        if not any(all(a <= b for a, b in zip(v, values, strict=True)) and v != values for v in met.values())
    }
    assert found.front.values == front
    assert front


def test_limits_hold_for_everything_that_is_kept() -> None:
    found = exploration(slo=SLO)
    kept = [v for v in search_of(found).enumerate().verdicts.values() if not v.constraint]
    assert kept
    for verdict in kept:
        assert verdict.estimate is not None
        for name, limit in found.explore.slo.items():
            assert latency_of(verdict.estimate, name) <= limit


def test_every_verdict_names_a_constraint_or_meets_all() -> None:
    search = search_of(exploration(slo=SLO, budget={"price_per_hour": 4}))
    found = search.enumerate()
    assert set(found.verdicts) == set(range(len(search.space)))
    assert "price budget" in {v.constraint for v in found.verdicts.values()}


def test_a_device_without_a_price_needs_one() -> None:
    found = exploration(devices=["mi300x"])
    assert {v.constraint for v in search_of(found).enumerate().verdicts.values()} == {"price unknown"}
    priced = exploration(devices=["mi300x"], prices={"mi300x": 4.0})
    assert not all(v.constraint for v in search_of(priced).enumerate().verdicts.values())
    assert not all(
        v.constraint
        for v in search_of(exploration(devices=["mi300x"], objectives=["energy"]))
        .enumerate()
        .verdicts.values()
    )


def test_what_only_a_rejected_candidate_beat_comes_back() -> None:
    search = search_of(exploration(objectives=["cost"]))
    found = search.enumerate()
    (best,) = found.front.values
    search.reject(best)
    assert found.verdicts[best].constraint == REJECTED
    again = search_of(exploration(objectives=["cost"])).enumerate(prune=False)
    values = {
        v.number: search.values(v) for v in again.verdicts.values() if not v.constraint and v.number != best
    }
    assert set(found.front.values) == {n for n, v in values.items() if v == min(values.values())}


def test_the_genetic_search_finds_the_best_of_a_small_space() -> None:
    pytest.importorskip("optuna")
    wanted = search_of(exploration(objectives=["cost"], slo=SLO)).enumerate()
    search = search_of(exploration(objectives=["cost"], slo=SLO))
    found = evolve(search, len(search.space))
    assert min(found.front.values.values()) == min(wanted.front.values.values())
