"""Breakdowns by module as a table, as a picture and as records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twofold.jobs.breakdown import Breakdown
from twofold.models.modules import in_order
from twofold.report import units
from twofold.report.bars import Bar, Group, stacked
from twofold.report.grid import Column, Grid, Line
from twofold.report.pictures import Picture


def grid(found: Sequence[Breakdown], phase: int) -> Grid:
    """One phase: modules down, devices across, each with its time and its share."""
    phases = [breakdown.phases[phase] for breakdown in found]
    names = in_order(dict.fromkeys((name for each in phases for name in each.seconds), 0.0))
    columns = [Column("module", align="left")]
    for breakdown in found:
        columns += [Column(breakdown.device, breakdown.confidence), Column("", "share")]
    lines = [
        Line(
            (
                name,
                *(cell for each in phases for cell in _cells(each.seconds.get(name, 0.0), each.total)),
            )
        )
        for name in names
    ]
    total = Line(("all", *(cell for each in phases for cell in _cells(each.total, each.total))), strong=True)
    per_token = Line(
        ("per token", *(cell for each in phases for cell in (units.seconds(each.total / each.tokens), ""))),
    )
    first = phases[0]
    return Grid(
        f"{first.name.capitalize()}, {first.tokens:,} tokens", tuple(columns), (*lines, total, per_token)
    )


def picture(found: Sequence[Breakdown]) -> Picture:
    """Stacked bars of shares, so that devices of different speed can be compared."""
    groups = []
    for phase, each in enumerate(found[0].phases):
        bars = []
        for breakdown in found:
            part = breakdown.phases[phase]
            shares = {name: 100 * taken / part.total for name, taken in part.seconds.items()}
            caption = f"{breakdown.device}, {breakdown.confidence}: {units.seconds(part.total)}"
            bars.append(Bar(caption, shares, faint=breakdown.confidence != "measured"))
        groups.append(Group(each.name.capitalize(), bars))
    return Picture(
        "Time by module",
        "Share of each phase's time; predictions are pale.",
        stacked(groups, "%", name="modules", title="Share of time by module"),
    )


def records(found: Sequence[Breakdown]) -> list[dict[str, Any]]:
    """The figures for JSON."""
    return [
        {
            "device": breakdown.device,
            "confidence": breakdown.confidence,
            "phases": {
                phase.name: {"seconds": phase.total, "tokens": phase.tokens, "modules": phase.seconds}
                for phase in breakdown.phases
            },
        }
        for breakdown in found
    ]


def _cells(seconds: float, total: float) -> tuple[str, str]:
    """A time and its share."""
    return units.seconds(seconds), f"{seconds / total:.0%}"
