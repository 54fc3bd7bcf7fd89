"""Statistics on numbers that can be checked by hand."""

from __future__ import annotations

import pytest
from tests.validate.samples import sample

from twofold.validate.statistics import rows, share


def test_errors_of_known_numbers() -> None:
    predicted = (1.1, 0.8, 1.3, 1.0, 1.0)
    samples = [sample(1.0, value, case=f"{value}") for value in predicted]
    (row,) = rows(samples, [True, True, False, True, None], [None] * 5, {"made-up": "Made up"})
    assert (row.n, row.title, row.quantity, row.fitted) == (5, "Made up", "tpot", False)
    assert row.mape == pytest.approx((0.1 + 0.2 + 0.3) / 5)
    assert row.median == pytest.approx(0.1)
    assert row.p90 == pytest.approx(0.26)  # between the two largest of five
    assert row.bias == pytest.approx(0.2 / 5)
    assert row.covered == pytest.approx(0.75)
    assert row.crossed is None
    assert (row.worst, row.worst_error) == ("1.3", pytest.approx(0.3))


def test_errors_are_relative_to_the_measurement() -> None:
    (row,) = rows([sample(2.0, 1.0)], [True], [True], {})
    assert row.mape == pytest.approx(0.5)
    assert row.bias == pytest.approx(-0.5)


def test_quantities_and_fitted_points_stand_apart() -> None:
    samples = [
        sample(quantity="tpot", fitted=True),
        sample(quantity="ttft"),
        sample(quantity="tpot"),
        sample(group="other", quantity="op"),
    ]
    found = rows(samples, [True] * 4, [True] * 4, {})
    assert [(r.group, r.quantity, r.fitted) for r in found] == [
        ("made-up", "ttft", False),
        ("made-up", "tpot", False),
        ("made-up", "tpot", True),
        ("other", "op", False),
    ]


def test_a_share_counts_what_was_answered() -> None:
    assert share([True, False, None, True]) == pytest.approx(2 / 3)
    assert share([None]) is None
    assert share([]) is None
