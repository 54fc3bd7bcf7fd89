"""The roofline plot: what ops do under what a device allows, and how far right an op can come at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twofold.report import units
from twofold.report.plots import DASHES, Point, plain_log
from twofold.report.svg import COLOURS, INK, MARKERS, drawing, label_points, legend, to_svg

_STRETCH = 30
"""An axis grows by at most this factor to show a limit that lies to the right of everything else."""
_LINE = 0.07
"""A line of text as a share of the height of the axes."""


def roofline(
    series: Mapping[str, Sequence[Point]],
    gb_s: Mapping[str, float],
    gflop_s: Mapping[str, float],
    *,
    limits: Mapping[str, float] | None = None,
    name: str = "roofline",
) -> str:
    """Ops under the ceilings of a device. Points: x in FLOP/byte, y in GFLOP/s; both must be positive.

    gb_s: GB/s by memory level; gflop_s: GFLOP/s by precision; limits: FLOP/byte that nothing of a kind can
    exceed, by name, drawn as vertical lines.
    """
    points = [p for found in series.values() for p in found]
    assert all(p.x > 0 and p.y > 0 for p in points), "a roofline has logarithmic axes"
    ridges = [roof / slope for roof in gflop_s.values() for slope in gb_s.values()]
    xs = [p.x for p in points] + ridges or [1.0]
    left, right = min(xs) / 4, max(xs) * 6
    right = max([right, *(x * 3 for x in (limits or {}).values() if x < right * _STRETCH)])
    top = max([*gflop_s.values(), *(p.y for p in points)], default=1.0) * 2.5
    bottom = min([p.y for p in points] + [min(gb_s.values(), default=1.0) * left * 2], default=0.1) / 2
    with drawing(4.0) as (figure, axes):
        roof = max(gflop_s.values(), default=None)
        for index, (level, slope) in enumerate(gb_s.items()):
            end = right if roof is None else min(right, roof / slope)
            axes.plot(
                [left, end],
                [slope * left, slope * end],
                color=INK,
                lw=1.2,
                ls=DASHES[index % len(DASHES)],
                label=f"{level} {units.digits(slope)} GB/s",
            )
        start = min(ridges, default=left)
        for index, height in enumerate(gflop_s.values()):
            axes.plot(
                [min(start, right), right],
                [height, height],
                color=INK,
                lw=1.2,
                ls=DASHES[index % len(DASHES)],
            )
        for text, height in _roof_labels(gflop_s, (top / bottom) ** _LINE):
            axes.annotate(
                text,
                (right, height),
                xytext=(-2, 4),
                ha="right",
                textcoords="offset points",
            )
        for index, (label, found) in enumerate(series.items()):
            axes.scatter(
                [p.x for p in found],
                [p.y for p in found],
                s=34,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                label=label,
                zorder=3,
            )
        for index, (label, x) in enumerate((limits or {}).items()):
            _limit(axes, label, x, right, DASHES[-1 - index % len(DASHES)])
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(left, right),
            ylim=(bottom, top),
            xlabel="FLOP per byte",
            ylabel="GFLOP/s",
        )
        plain_log(axes.xaxis)
        plain_log(axes.yaxis)
        legend(figure, axes, columns=2)
        first = next(iter(series.values()), [])
        label_points(axes, [(p.x, p.y, p.label) for p in first])
        told = "; ".join(
            f"{p.label} at {units.digits(p.x)} FLOP/byte does {units.digits(p.y)} GFLOP/s" for p in first
        )
        told = "; ".join(
            [told, *(f"{what} ends at {units.digits(x)} FLOP/byte" for what, x in (limits or {}).items())]
        )
        return to_svg(figure, name, f"Roofline. {told}")


def _roof_labels(gflop_s: Mapping[str, float], room: float) -> list[tuple[str, float]]:
    """What stands on the roofs, and at which height. Those closer to the next than the factor `room` have one
    label together, on the highest of them."""
    groups: list[list[tuple[str, float]]] = []
    for roof in sorted(gflop_s.items(), key=lambda item: -item[1]):
        if groups and groups[-1][-1][1] / roof[1] < room:
            groups[-1].append(roof)
        else:
            groups.append([roof])
    labels = []
    for group in groups:
        (first, high), (last, low) = group[0], group[-1]
        names = first if len(group) == 1 else f"{first} … {last}"
        heights = list(dict.fromkeys((units.digits(low), units.digits(high))))
        labels.append((f"{names} {'–'.join(heights)} GFLOP/s", high))
    return labels


def _limit(axes: Any, label: str, x: float, right: float, dash: str) -> None:
    """A vertical line at `x`, or an arrow at the right edge where that lies further out than the axis
    goes."""
    text = f"{label}: {units.digits(x)} FLOP/byte"
    if x < right:
        axes.axvline(x, color=COLOURS[5], lw=1.2, ls=dash, label=text)
    else:
        axes.plot([], [], color=COLOURS[5], lw=1.2, ls=dash, label=f"{text} (beyond the right edge)")
