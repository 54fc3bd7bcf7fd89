"""Numbers as text."""

from __future__ import annotations

import pytest

from twofold.report import units
from twofold.report.schema import Figure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1.00"),
        (45.62, "45.6"),
        (456.2, "456"),
        (999.7, "1,000"),
        (1234.4, "1,234"),
        (123456, "123,456"),
        (0.0123, "0.0123"),
        (0.00021, "0.000210"),
        (1e-7, "1e-07"),
        (-2.5, "-2.50"),
        (9.996, "10.0"),
    ],
)
def test_digits(value: float, text: str) -> None:
    assert units.digits(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (0.9999, "s", "1.00 s"),
        (3.2e-10, "s", "0.320 ns"),
        (269e6, "B", "269 MB"),
        (0, "B", "0 B"),
        (0.5, "B", "0.500 B"),
        (-18e6, "B", "-18.0 MB"),
        (1.5e12, "FLOP", "1.50 TFLOP"),
        (0.31, "J/token", "310 mJ/token"),
    ],
)
def test_si(value: float, unit: str, text: str) -> None:
    assert units.si(value, unit) == text


def test_time_beyond_seconds() -> None:
    assert units.seconds(119) == "119 s"
    assert units.seconds(150) == "2.50 min"
    assert units.seconds(7200) == "2.00 h"


def test_ratio_and_percent() -> None:
    assert units.ratio(0.94) == "0.94×"
    assert units.ratio(1074.2) == "1,074×"
    assert units.signed_percent(-0.004) == "0 %"
    assert units.signed_percent(0.126) == "+13 %"
    assert units.percent(1) == "100 %"
    assert units.percent(0.9996) == "100.0 %"


def test_figures_show_their_interval() -> None:
    wide = Figure(low=0.01, mid=0.012, high=0.015, unit="s")
    assert units.figure(wide) == "12.0 ms (10.0–15.0)"
    assert units.spread(wide) == "12.0 ms ±21 %"
    assert units.middle(wide) == "12.0 ms"
    assert units.interval(wide) == "−17/+25 %"
    assert units.figure(Figure(low=0.0002, mid=0.5, high=3, unit="s")) == "500 ms (0.200–3,000)"
    assert units.figure(Figure(low=90, mid=130, high=7500, unit="s")) == "2.17 min (1.50–125)"
    assert units.figure(Figure(low=90, mid=118, high=150, unit="token/s")) == "118 token/s (90.0–150)"
    assert units.middle(Figure.exact(118.0, "token/s")) == "118 token/s"
    assert units.middle(Figure.exact(118.0, "token/s"), bare=True) == "118"
    assert units.figure(None) == units.middle(None) == units.UNKNOWN
