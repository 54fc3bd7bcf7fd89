"""The top-k engine: its closed form held to quick-select played on random numbers."""

from __future__ import annotations

import random

import pytest

from twofold.devices.parts.topk import ROUND_CYCLES, TopK, compared, rounds


def play(n: int, k: int, lanes: int, rng: random.Random) -> tuple[int, int, int]:
    """(cycles, numbers compared, rounds) of one selection, number by number."""
    left = [rng.random() for _ in range(n)]
    wanted = sorted(left, reverse=True)[k - 1]
    cycles, seen, turns, target = -(-n // lanes), 0, 0, k
    while True:
        pivot = rng.choice(left)
        cycles += -(-len(left) // lanes) + ROUND_CYCLES
        seen += len(left)
        turns += 1
        above = [x for x in left if x > pivot]
        if len(above) + 1 == target:
            assert pivot == wanted
            return cycles, seen, turns
        if len(above) >= target:
            left = above
        else:
            target -= len(above) + 1
            left = [x for x in left if x < pivot]


@pytest.mark.parametrize(("n", "k"), [(64, 16), (128, 120), (307, 92), (1024, 307), (1024, 1), (2048, 1024)])
def test_expected_cycles(n: int, k: int) -> None:
    """Within 3 % of the mean of 600 selections, as are its parts."""
    rng, times = random.Random(1), 600
    played = [play(n, k, 16, rng) for _ in range(times)]
    mean = [sum(run[i] for run in played) / times for i in range(3)]
    assert TopK(16, 1e9, 0.0).cycles(n, k) == pytest.approx(mean[0], rel=0.03)
    assert compared(n, k) == pytest.approx(mean[1], rel=0.04)
    assert rounds(n, k) == pytest.approx(mean[2], rel=0.04)


def test_small_selections_are_exact() -> None:
    """Of two numbers one pivot is enough half of the time."""
    assert rounds(2, 1) == pytest.approx(1.5)
    assert compared(2, 1) == pytest.approx(2 + 0.5)


def test_more_lanes_and_fewer_numbers_are_quicker() -> None:
    """Time falls with lanes, grows with numbers, and is about the same for the k-th from either end."""
    wide, narrow = TopK(32, 1e9, 1e-12), TopK(16, 1e9, 1e-12)
    assert wide.cycles(1024, 307) < narrow.cycles(1024, 307) < narrow.cycles(2048, 614)
    assert narrow.cycles(1024, 1) == pytest.approx(narrow.cycles(1024, 1023), rel=0.02)
    assert narrow.work(1024, 307, 3).seconds == pytest.approx(3 * narrow.work(1024, 307).seconds)
    assert narrow.work(1024, 307).total_joules == pytest.approx(compared(1024, 307) * 1e-12)


def test_nothing_to_leave_out() -> None:
    """All of them are taken without a comparison."""
    assert TopK(16, 1e9, 1e-12).work(100, 100).seconds == 0.0
    with pytest.raises(ValueError, match="lanes"):
        TopK(0, 1e9, 0.0)
