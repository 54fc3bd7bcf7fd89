"""A sustained run as a table and as courses over time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from twofold.jobs.sustained import Sustained
from twofold.report import units
from twofold.report.grid import Column, Grid, Line
from twofold.report.pictures import Picture
from twofold.report.svg import COLOURS, drawing, to_svg


def grid(found: Sustained) -> Grid:
    """The figures of a run, and why some are missing."""
    rows = [
        ("requests", f"{found.requests:,}"),
        ("output tokens", f"{found.output_tokens:,}"),
        ("duration", units.seconds(found.seconds)),
        ("speed", f"{units.digits(found.tokens_per_s)} token/s"),
    ]
    if found.throttled is not None:
        rows.append(("speed, last quarter over first", units.ratio(found.throttled)))
    if found.peak_resident is not None:
        rows.append(("peak memory of the process", units.si(found.peak_resident, "B")))
    hottest = max((s.temperature for s in found.samples if s.temperature is not None), default=None)
    if hottest is not None:
        rows.append(("hottest", f"{units.digits(hottest)} °C"))
    clocks = [s.frequency for s in found.samples if s.frequency is not None]
    if clocks:
        rows.append(
            ("clock, lowest to highest", f"{units.si(min(clocks), 'Hz')} to {units.si(max(clocks), 'Hz')}")
        )
    if (energy := found.energy) is not None:
        label = "energy, estimated" if energy.estimated else "energy"
        rows.append((label, f"{units.si(energy.joules_per_token, 'J/token')} ({energy.source})"))
        if energy.mean_watts is not None and energy.idle_watts is not None:
            rows.append(
                ("power", f"{units.si(energy.mean_watts, 'W')}, {units.si(energy.idle_watts, 'W')} at rest")
            )
    notes = tuple(f"{what}: {why}" for what, why in found.missing.items())
    title = f"{found.model} on {found.device}, {found.techniques}"
    columns = (Column("figure", align="left"), Column("measured"))
    return Grid(title, columns, tuple(Line(row) for row in rows), notes)


def pictures(found: Sustained) -> list[Picture]:
    """Speed, memory, temperature, power and clock over time, as far as they were measured."""
    speed = [(0.5 * (w.start + w.end), w.tokens_per_s) for w in found.windows]
    samples = found.samples
    power = [
        (0.5 * (a.seconds + b.seconds), (b.joules - a.joules) / (b.seconds - a.seconds))
        for a, b in pairwise(samples)
        if a.joules is not None and b.joules is not None and b.seconds > a.seconds
    ]
    courses = (
        ("Speed", "token/s", speed),
        ("Memory of the process", "GiB", [(s.seconds, s.resident / 2**30) for s in samples if s.resident]),
        ("Temperature", "°C", [(s.seconds, s.temperature) for s in samples if s.temperature is not None]),
        ("Power", "W", power),
        ("Clock", "GHz", [(s.seconds, s.frequency / 1e9) for s in samples if s.frequency]),
    )
    return [
        Picture(title, f"{unit} over seconds of the run.", _course(points, title, unit))
        for title, unit, points in courses
        if len(points) > 1
    ]


def _course(points: Sequence[tuple[float, float]], title: str, unit: str) -> str:
    with drawing(2.2) as (figure, axes):
        axes.plot([x for x, _ in points], [y for _, y in points], color=COLOURS[0], lw=1.5)
        axes.set(xlabel="s", ylabel=unit, ylim=(0, 1.15 * max(y for _, y in points)))
        values = [y for _, y in points]
        told = f"{title}: {units.digits(min(values))} to {units.digits(max(values))} {unit}"
        return to_svg(figure, "course-" + title.lower().replace(" ", "-"), told)
