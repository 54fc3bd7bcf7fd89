"""Curves over one quantity: lengths, sizes. Both axes are logarithmic."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from twofold.report import units
from twofold.report.svg import COLOURS, INK, MARKERS, drawing, legend, to_svg

Curve = Sequence[tuple[float, float]]


def curves(
    series: Mapping[str, Curve],
    *,
    x: str,
    y: str,
    name: str,
    bounds: Mapping[str, Curve] | None = None,
    unit: str = "",
) -> str:
    """Measured or computed `series` with a mark per point, and `bounds` as dashed lines without. x, y: what
    the axes show; unit: of the numbers on the y axis, with SI prefixes. Points that are not positive have no
    place and are left out."""
    shown = {label: _positive(points) for label, points in series.items()}
    lines = {label: _positive(points) for label, points in (bounds or {}).items()}
    assert any(shown.values()), "nothing to draw"
    with drawing(3.8) as (figure, axes):
        for index, (label, points) in enumerate(lines.items()):
            style = ("--", ":", "-.")[index % 3]
            axes.plot(
                [p[0] for p in points], [p[1] for p in points], color=INK, lw=1.2, ls=style, label=label
            )
        for index, (label, points) in enumerate(shown.items()):
            axes.plot(
                [p[0] for p in points],
                [p[1] for p in points],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                ms=4.5,
                lw=1.5,
                label=label,
            )
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        for axis, suffix in ((axes.xaxis, ""), (axes.yaxis, unit)):
            low, high = axis.get_view_interval()
            axis.set_major_locator(
                LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0), numticks=9)
            )
            axis.set_major_formatter(FuncFormatter(lambda value, _, suffix=suffix: _tick(value, suffix)))
            axis.set_minor_formatter(NullFormatter())
        legend(figure, axes, columns=2)
        told = "; ".join(
            f"{label} from {units.si(points[0][1], unit).strip()} to {units.si(points[-1][1], unit).strip()}"
            for label, points in (shown | lines).items()
            if points
        )
        return to_svg(figure, name, f"{y} over {x}: {told}.")


def _tick(value: float, unit: str) -> str:
    """A round number: "10 k", "500 ms"."""
    return re.sub(r"\.0+(?= |$)", "", units.si(value, unit).strip())


def _positive(points: Curve) -> list[tuple[float, float]]:
    return [(a, b) for a, b in points if a > 0 and b > 0]
