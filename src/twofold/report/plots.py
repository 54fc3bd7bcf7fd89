"""The scatter plots of a report: pure functions from numbers to an inline SVG element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from twofold.report import units
from twofold.report.svg import (
    COLOURS,
    INK,
    MARKERS,
    PAPER,
    RULE,
    SMALL,
    drawing,
    legend,
    shortened,
    to_svg,
)


class Point(NamedTuple):
    """A named point of a scatter plot."""

    label: str
    x: float
    y: float


_OPAQUE = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}  # under text that crosses lines
DASHES = ("-", "--", "-.", ":")
"""Styles of the lines of one plot, in order."""


def predicted_against_measured(
    series: Mapping[str, Sequence[Point]], *, band: float = 0.25, name: str = "predicted-measured"
) -> str:
    """Predictions (y) over measurements (x), in seconds, with the line of equality and a band of ± `band`
    around it."""
    points = [p for found in series.values() for p in found]
    assert points, "nothing to draw"
    assert all(p.x > 0 and p.y > 0 for p in points), "times are positive"
    low = min(min(p.x, p.y) for p in points) / 1.6
    high = max(max(p.x, p.y) for p in points) * 1.6
    with drawing(4.2) as (figure, axes):
        axes.fill_between(
            [low, high],
            [low * (1 - band), high * (1 - band)],
            [low * (1 + band), high * (1 + band)],
            color=RULE,
            alpha=0.5,
            lw=0,
            label=f"within ±{band * 100:.0f} %",
        )
        axes.plot([low, high], [low, high], color=INK, lw=1)
        for index, (label, found) in enumerate(series.items()):
            axes.scatter(
                [p.x for p in found],
                [p.y for p in found],
                s=34,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                label=label,
                zorder=3,
                alpha=0.9,
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(low, high),
            ylim=(low, high),
            xlabel="measured",
            ylabel="predicted",
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 1e4 else (1.0,), numticks=9))
            axis.set_major_formatter(
                FuncFormatter(lambda value, _: f"{value * 1e3:g} ms" if value < 1 else f"{value:g} s")
            )
            axis.set_minor_formatter(NullFormatter())
        legend(figure, axes)
        inside = sum(abs(p.y / p.x - 1) <= band for p in points)
        return to_svg(
            figure,
            name,
            f"Predicted over measured times: {inside} of {len(points)} within {band * 100:.0f} %.",
        )


def device_speedups(rows: Sequence[tuple[str, Mapping[str, float]]], *, name: str = "device-speedups") -> str:
    """What each technique gains on each device: one line per row, one mark per device, x = times that
    device's own baseline."""
    devices = list(dict.fromkeys(device for _, gains in rows for device in gains))
    step = 0.4
    with drawing(1.1 + step * len(rows)) as (figure, axes):
        axes.axvline(1, color=INK, lw=1, ls="--")
        for index, (label, gains) in enumerate(rows):
            at = index * step
            axes.annotate(
                shortened(label),
                (0, at),
                xycoords=("axes fraction", "data"),
                xytext=(0, 6),
                textcoords="offset points",
                fontsize=SMALL,
                va="bottom",
                bbox=_OPAQUE,
            )
            if gains:
                axes.plot([min(gains.values()), max(gains.values())], [at, at], color=RULE, lw=2, zorder=1)
        for index, device in enumerate(devices):
            found = [(gains[device], i * step) for i, (_, gains) in enumerate(rows) if device in gains]
            axes.scatter(
                *zip(*found, strict=True),
                s=34,
                color=COLOURS[index % len(COLOURS)],
                alpha=0.9,
                marker=MARKERS[index % len(MARKERS)],
                label=device,
                zorder=3,
            )
        axes.set(
            ylim=((len(rows) - 0.4) * step, -0.85 * step),
            yticks=[],
            xlabel="token/s over the same device's baseline",
        )
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.margins(x=0.06)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}×"))
        legend(figure, axes, columns=3)
        told = "; ".join(
            f"{row}: " + ", ".join(f"{d} {units.ratio(v)}" for d, v in g.items()) for row, g in rows
        )
        return to_svg(figure, name, f"Speed-up by device. {told}")


def device_speed(rows: Sequence[tuple[str, float, float, str]], *, name: str = "device-speed") -> str:
    """Tokens per second on each device: (device, baseline, best, which row is best), on a logarithmic
    axis."""
    assert rows, "nothing to draw"
    assert all(base > 0 and best > 0 for _, base, best, _ in rows), "speeds are positive"
    step = 0.42
    with drawing(1.0 + step * len(rows)) as (figure, axes):
        for index, (device, base, best, which) in enumerate(rows):
            at = index * step
            axes.plot(
                [base, best], [at, at], color=COLOURS[0], lw=3, alpha=0.35, zorder=2, solid_capstyle="butt"
            )
            axes.annotate(
                f"{device}: {units.digits(base)}, {units.digits(best)} with {which}",
                (0, at),
                fontsize=SMALL,
                xycoords=("axes fraction", "data"),
                xytext=(0, 6),
                textcoords="offset points",
                va="bottom",
                bbox=_OPAQUE,
            )
        ys = [i * step for i in range(len(rows))]
        axes.scatter([r[1] for r in rows], ys, s=34, color=COLOURS[1], marker="s", label="baseline", zorder=3)
        axes.scatter([r[2] for r in rows], ys, s=34, color=COLOURS[0], label="fastest technique", zorder=3)
        axes.set(
            xscale="log", ylim=((len(rows) - 0.4) * step, -0.85 * step), yticks=[], xlabel="generated token/s"
        )
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.margins(x=0.08)
        plain_log(axes.xaxis)
        legend(figure, axes)
        told = "; ".join(f"{d}: {units.digits(a)} token/s, {units.digits(b)} with {w}" for d, a, b, w in rows)
        return to_svg(figure, name, f"Speed by device. {told}")


def plain_log(axis: Any) -> None:
    """Decades written as plain numbers."""
    axis.set_major_locator(LogLocator(numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
