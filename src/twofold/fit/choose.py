"""Fits of the generations that a data folder tells something of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twofold.devices.catalog import generation_names
from twofold.errors import nearest
from twofold.fit.fit import Fit, Progress, fit
from twofold.fit.points import ALL_PATTERNS, by_generation, read_points


def fits(
    folder: Path, generations: Sequence[str] = (), *, starts: int = 4, progress: Progress | None = None
) -> list[Fit]:
    """The fit of each of `generations` (default: of all that `folder` has tables of). ValueError for an
    unknown generation, one without tables, or a folder without any."""
    for name in generations:
        if name not in generation_names():
            raise ValueError(f"unknown generation {name!r}; {nearest(name, generation_names())}")
    points = by_generation(read_points(folder))
    if not points:
        raise ValueError(f"{folder} has no table of operators ({', '.join(ALL_PATTERNS)})")
    for name in generations:
        if name not in points:
            raise ValueError(f"{folder} has no table of a {name} device; it has {', '.join(sorted(points))}")
    return [
        fit(name, points[name], starts=starts, progress=progress) for name in generations or sorted(points)
    ]
