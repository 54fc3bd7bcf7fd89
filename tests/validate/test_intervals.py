"""Intervals cover what they promise, and widen with distance by what the data show."""

from __future__ import annotations

import numpy as np
import pytest
from tests.validate.samples import population, sample

from twofold.validate.intervals import contained, cross_validated, estimate
from twofold.validate.quantiles import LEAST, LEVEL, bounds, reach
from twofold.validate.statistics import share


def test_quantiles_hold_for_the_next_point() -> None:
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        low, high = bounds([draw.normal(0, 1, 30)])
        inside += low <= draw.normal(0, 1) <= high
    assert LEVEL - 0.04 <= inside / 400 < 1.0


def test_few_points_give_wider_intervals_than_many() -> None:
    few = np.array([0.05, -0.1, 0.08])
    assert reach([np.abs(few)]) > 0.1
    assert reach([np.abs(few[:1])]) > reach([np.abs(few[:1])] * 12)
    low, high = bounds([few])
    assert low == -high


def test_no_interval_is_narrower_than_measurements_repeat() -> None:
    assert bounds([np.full(100, 1e-5)]) == (-LEAST, LEAST)


def test_folds_count_alike_however_many_points_they_have() -> None:
    many, few = np.full(10_000, 0.01), np.full(100, 0.5)
    assert bounds([many, few])[1] == pytest.approx(0.5)
    assert bounds([np.concatenate([many, few])])[1] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "offsets", [{}, {"model": 0.1}, {"generation": 0.2}, {"model": 0.1, "generation": 0.2}]
)
def test_held_out_points_are_covered(offsets: dict[str, float]) -> None:
    shares = [share(cross_validated(list(population(seed, points=20, **offsets)))) for seed in range(4)]
    assert all(found is not None for found in shares)
    assert 0.8 <= np.mean([s for s in shares if s is not None]) <= 0.99


def test_a_point_is_not_judged_by_itself() -> None:
    samples = [s for s in population(points=30, noise=0.05) if s.precision == "bf16"]
    outlier = sample(10.0, 1.0, device="h100-sxm", model="odd one")
    assert cross_validated([*samples, outlier])[-1] is False
    assert cross_validated([outlier]) == [None]


def test_fitted_points_are_left_out_where_others_are_there() -> None:
    samples = list(population(points=30, noise=0.2))
    fitted = [sample(1.0, 1.0, fitted=True, model=f"fitted {n}") for n in range(500)]
    assert estimate([*samples, *fitted]).residuals == estimate(samples).residuals
    assert estimate(fitted).residuals["datasheet"]["tpot"].high == pytest.approx(LEAST)


def test_another_generation_widens_by_what_generations_differ() -> None:
    alike = estimate(list(population(3, noise=0.05)))
    apart = estimate(list(population(3, noise=0.05, generation=0.5)))
    assert apart.steps["generation"].factor > 1.3 * alike.steps["generation"].factor
    assert apart.steps["generation"].basis.startswith("estimated")
    assert alike.steps["kind"].basis.startswith("assumed")


def test_larger_sizes_widen_where_errors_grow_with_size() -> None:
    draw = np.random.default_rng(0)
    samples = [
        sample(1.0, float(np.exp(-draw.normal(0, 0.02 * size))), tokens=2.0**size, model=f"m{size % 3}")
        for size in range(1, 10)
        for _ in range(30)
    ]
    growing = estimate(samples).steps["size"]
    assert growing.factor > 1.1
    assert growing.basis.startswith("estimated")


def test_memory_has_no_interval() -> None:
    table = estimate([sample()])
    assert (
        contained([sample(2.0, 1.0, quantity="memory"), sample(2.0, 1.0, label="learned")], table)
        == [None] * 2
    )
    assert cross_validated([sample(quantity="memory"), sample()])[0] is None


def test_nothing_measured_gives_no_intervals() -> None:
    with pytest.raises(ValueError, match="no measurement"):
        estimate([sample(quantity="memory")])
