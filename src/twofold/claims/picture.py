"""The ledger as a picture: what is claimed against what comes out here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from twofold.claims.ledger import TOLERANCE, LedgerRow, Verdict
from twofold.report.svg import COLOURS, INK, MARKERS, RULE, drawing, label_points, legend, to_svg

NAMED = 12
"""Rows with the worst ratios that are labelled; all are named where a mouse rests on them."""
_NAME = "ledger"
_LOOKS: dict[Verdict, int] = {"reproduced": 2, "direction": 0, "not reproduced": 5}
"""Colour and marker of each verdict, by their number."""


class _Point(NamedTuple):
    """A row where it is drawn."""

    x: float
    y: float
    row: LedgerRow


def _points(rows: Sequence[LedgerRow]) -> list[_Point]:
    """Rows whose ratio is above 0: x is the claimed figure (the geometric mean of a range), without its sign,
    y that times the ratio."""
    found = []
    for row in rows:
        if row.ratio:
            low, high = map(abs, row.claimed)
            x = math.sqrt(low * high) if low and high else max(low, high)
            found.append(_Point(x, x * row.ratio, row))
    return found


def claimed_against_ours(rows: Sequence[LedgerRow]) -> str:
    """An SVG with a point for every row that can be compared, in the row's own unit, both axes logarithmic,
    and the band within which a figure counts as reproduced."""
    points = _points(rows)
    assert points, "nothing to draw"
    low = min(min(p.x, p.y) for p in points) / 2
    high = max(max(p.x, p.y) for p in points) * 2
    with drawing(5.4, 5.8) as (figure, axes):
        axes.fill_between(
            [low, high],
            [low * (1 - TOLERANCE), high * (1 - TOLERANCE)],
            [low * (1 + TOLERANCE), high * (1 + TOLERANCE)],
            color=RULE,
            lw=0,
            label=f"within ±{TOLERANCE * 100:.0f} %",
        )
        axes.plot([low, high], [low, high], color=INK, lw=0.8)
        for verdict, look in _LOOKS.items():
            drawn = [(n, p) for n, p in enumerate(points) if p.row.verdict == verdict]
            style = {"color": COLOURS[look], "marker": MARKERS[look], "alpha": 0.85}
            for n, p in drawn:
                axes.scatter(p.x, p.y, s=22, lw=0, zorder=3, gid=f"row-{n}", **style)
            if drawn:
                axes.scatter([], [], s=22, label=f"{verdict} ({len(drawn)})", **style)
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(low, high),
            ylim=(low, high),
            xlabel="claimed, each in its own unit",
            ylabel="ours",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=9))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            axis.set_minor_formatter(NullFormatter())
        legend(figure, axes)
        worst = sorted(points, key=lambda p: -abs(math.log(p.y / p.x)))
        # Points without a name are there to be kept clear of.
        label_points(axes, [(p.x, p.y, p.row.system if n < NAMED else "") for n, p in enumerate(worst)])
        inside = sum(p.row.verdict == "reproduced" for p in points)
        svg = to_svg(figure, _NAME, f"Ours against claimed figures: {inside} of {len(points)} reproduced.")
    return _with_names(svg, points)


def _with_names(svg: str, points: Sequence[_Point]) -> str:
    """`svg` with the name of each point's row, which a browser shows where the mouse rests."""

    def named(match: re.Match[str]) -> str:
        row = points[int(match[1])].row
        return f"{match[0]}<title>{escape(f'{row.system}: {row.figure} ({row.ratio:.2f})')}</title>"

    return re.sub(rf'<g id="{_NAME}-row-(\d+)">', named, svg)
