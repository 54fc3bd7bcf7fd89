"""The accuracy report: what `twofold validate --json` prints, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import Field

from twofold.report import units
from twofold.report.grid import Column, Grid, Line
from twofold.report.host import twofold_version
from twofold.report.schema import Record

_WORDS = {
    "op": "op time",
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "end to end",
    "throughput": "throughput",
    "energy": "energy",
    "memory": "memory",
}


class AccuracyRow(Record):
    """The errors of one group and quantity, as fractions of the measurement.

    fitted: whether these points helped to choose parameters. mape: mean absolute error; median and p90 of the
    absolute error; bias: mean signed error (positive: predicted too high). covered: share of measurements
    inside the interval of their prediction; crossed: the same with intervals made without the points of the
    same model and device. worst: the case that is furthest off.
    """

    group: str
    title: str
    quantity: str
    fitted: bool
    devices: list[str]
    labels: list[str]
    n: int = Field(ge=1)
    mape: float
    median: float
    p90: float
    bias: float
    covered: float | None
    crossed: float | None
    worst: str
    worst_error: float


class Accuracy(Record):
    """Everything that a validation found. data: the folder of measurements, "" without one; absent: groups
    without data, each with what would bring it; left_out: measurements that were not predicted, by group and
    reason; failed: groups that raised; unknown: files that no group reads; held_out_coverage: cross-validated
    share of the points that were not fitted, by quantity."""

    rows: list[AccuracyRow]
    data: str = ""
    held_out_coverage: dict[str, float] = Field(default_factory=dict)
    absent: dict[str, list[str]] = Field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = Field(default_factory=dict)
    failed: dict[str, str] = Field(default_factory=dict)
    unknown: list[str] = Field(default_factory=list)
    twofold_version: str = Field(default_factory=twofold_version)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))


def grid(accuracy: Accuracy) -> Grid:
    """The table: one line per group, quantity and fitted or held out."""
    columns = (
        Column("predicted", align="left"),
        Column("quantity", align="left"),
        Column("points", align="left"),
        Column("confidence", align="left"),
        Column("n"),
        Column("MAPE"),
        Column("median"),
        Column("p90"),
        Column("bias"),
        Column("in interval"),
        Column("", "cross-validated"),
    )
    lines = [
        Line(
            (
                row.title,
                _WORDS.get(row.quantity, row.quantity),
                "fitted" if row.fitted else "held out",
                ", ".join(row.labels),
                f"{row.n:,}",
                *(units.percent(value) for value in (row.mape, row.median, row.p90)),
                f"{row.bias * 100:+.1f} %",
                _share(row.covered),
                _share(row.crossed),
            )
        )
        for row in accuracy.rows
    ]
    return Grid("Predicted against measured", columns, tuple(lines), tuple(_notes(accuracy)))


def _notes(accuracy: Accuracy) -> Sequence[str]:
    notes = [
        "errors are |predicted / measured − 1|; bias is its mean with the sign. Held-out points chose no "
        "parameter. In interval: measurements inside the interval of their prediction; cross-validated: "
        "with intervals made without that model on that device"
    ]
    if accuracy.held_out_coverage:
        shares = (f"{_WORDS[name]} {_share(value)}" for name, value in accuracy.held_out_coverage.items())
        notes.append(f"held-out points in their cross-validated interval: {', '.join(shares)}")
    return notes


def _share(value: float | None) -> str:
    return units.UNKNOWN if value is None else f"{value * 100:.0f} %"
