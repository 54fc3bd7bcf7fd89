"""The waiting formulas against simulations of the queues that they describe."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from twofold.explore.queueing import gated_first_token, quantile, queued_wait, seat_wait


def _gated(rate: float, step: float, prompt: float, count: int) -> list[float]:
    """First tokens where each step takes in all who came during the one before."""
    rng = random.Random(1)
    now, arrival, waiting, found = 0.0, rng.expovariate(rate), [], []
    while len(found) < count:
        end = now + step + len(waiting) * prompt
        found += [end - came for came in waiting]
        waiting = []
        while arrival < end:
            waiting.append(arrival)
            arrival += rng.expovariate(rate)
        now = end
    return found


@pytest.mark.parametrize("rate", [1.0, 8.0, 20.0])
def test_a_gated_queue_is_as_simulated(rate: float) -> None:
    step, prompt = 0.01, 0.03
    found = sorted(_gated(rate, step, prompt, 20_000))
    mean, within = gated_first_token(rate, step, prompt)
    assert mean == pytest.approx(fmean(found), rel=0.05)
    for share in (0.5, 0.9):
        assert quantile(within, share, mean) == pytest.approx(found[int(share * len(found))], rel=0.15)


@pytest.mark.parametrize("rate", [2.0, 12.0])
def test_a_queue_with_vacations_is_as_simulated(rate: float) -> None:
    service, vacation = 0.05, 0.01
    rng = random.Random(2)
    now, arrival, found = 0.0, rng.expovariate(rate), []
    while len(found) < 20_000:
        if arrival <= now:  # first come, first served
            found.append(now - arrival)
            arrival += rng.expovariate(rate)
            now += service
        else:
            now += vacation
    mean, within = queued_wait(rate, service, vacation)
    assert mean == pytest.approx(fmean(found), rel=0.08)
    found.sort()
    assert quantile(within, 0.9, mean) == pytest.approx(found[int(0.9 * len(found))], rel=0.2)


def test_waiting_for_a_seat() -> None:
    mean, within = seat_wait(rate=0.5, held=1.0, seats=1)
    assert mean == pytest.approx(0.5)  # M/D/1: load · service / (2 (1 - load))
    assert within(0.0) == pytest.approx(0.5)  # half of them find the seat free
    assert seat_wait(rate=0.5, held=1.0, seats=50)[0] < 1e-9
