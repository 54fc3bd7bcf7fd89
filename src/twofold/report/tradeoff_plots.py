"""The Pareto plots of a comparison: speed and bytes over the baseline against quality, as SVG and as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.ticker import FuncFormatter
from rich.text import Text

from twofold.report import text_plot, units
from twofold.report.svg import COLOURS, INK, RULE, drawing, label_points, to_svg
from twofold.report.text_plot import Axis, Mark
from twofold.report.tradeoff import Tradeoff

NAMED = 12
"""Up to so many points all carry names; of more, those off the front carry their numbers in the table."""


class Against(NamedTuple):
    """What stands on the y axis: its words, how to read it, and whether more of it is better."""

    name: str
    words: str
    read: Callable[[Tradeoff], float | None]
    more: bool


SPEED = Against("speed-quality", "token/s over the baseline", lambda row: row.tokens_per_s, True)
BYTES = Against("bytes-quality", "all bytes over the baseline's", lambda row: row.bytes, False)


class Spot(NamedTuple):
    """A row on a plot: its number and label, KL divergence (x), what stands against it (y)."""

    number: int
    label: str
    x: float
    y: float
    on_front: bool


def spots(rows: Sequence[Tradeoff], against: Against) -> list[Spot]:
    """The rows that have both figures, numbered as in the table; without the baseline, which is 1 at 0."""
    found = []
    for number, row in enumerate(rows[1:], start=1):
        y = against.read(row)
        if row.kl_divergence is not None and y is not None and y > 0:
            # Rounding can leave a KL divergence a hair below zero.
            found.append(Spot(number, row.label, max(0.0, row.kl_divergence), y, bool(row.on_front)))
    return found


def frontier(found: Sequence[Spot], against: Against) -> list[tuple[float, float]]:
    """The best y that is to be had at each x or less, where it changes; the baseline is to be had too."""
    best, steps = 1.0, [(0.0, 1.0)]
    for spot in sorted(found, key=lambda s: (s.x, -s.y if against.more else s.y)):
        if spot.y > best if against.more else spot.y < best:
            best = spot.y
            steps.append((spot.x, best))
    return steps


def svg(found: Sequence[Spot], against: Against) -> str:
    """KL divergence in nat per token (x; what has none stands at zero) and `against` (y)."""
    assert found, "nothing to draw"
    positive = [s.x for s in found if s.x > 0]
    small = 10.0 ** math.floor(math.log10(min(positive, default=1e-3)))
    highest = max([*positive, small * 10])
    few = len(found) <= NAMED
    with drawing(4.0 if few else 6.0) as (figure, axes):
        axes.axhline(1, color=INK, lw=1, ls="--")
        steps = frontier(found, against)
        xs, ys = zip(*steps, (highest * 3, steps[-1][1]), strict=True)
        axes.step(xs, ys, where="post", color=COLOURS[0], lw=1.2, alpha=0.6, zorder=2)
        for on_front in (False, True):
            mine = [s for s in found if s.on_front is on_front]
            axes.scatter(
                [s.x for s in mine],
                [s.y for s in mine],
                s=44 if on_front else 16,
                color=COLOURS[0] if on_front else COLOURS[1],
                linewidths=0,
                zorder=4 if on_front else 3,
            )
        axes.set_xscale("symlog", linthresh=small, linscale=0.5)
        axes.set(
            xlim=(-small * 0.35, highest * 3),
            xlabel="KL divergence from the unmodified model, nat per token",
            ylabel=against.words,
        )
        if max(s.y for s in found) > 4 * min(s.y for s in found):
            axes.set_yscale("log", base=2)
        ticks = [0.0] + [small * 10**i for i in range(0, 12) if small * 10**i <= highest * 3]
        axes.set_xticks(ticks, ["0"] + [f"{t:g}" for t in ticks[1:]])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}×"))
        axes.margins(y=0.12)
        axes.grid(color=RULE)
        named = [(s.x, s.y, s.label) for s in found if few or s.on_front]
        label_points(axes, named + [(s.x, s.y, str(s.number)) for s in found if not (few or s.on_front)])
        told = "; ".join(f"{s.label}: {units.ratio(s.y)} at {units.digits(s.x)} nat" for s in found)
        return to_svg(figure, against.name, f"{against.words}, against quality. {told}")


def text(rows: Sequence[Tradeoff]) -> Text | None:
    """Both plots of characters, one under the other; None where quality was not measured."""
    parts = []
    for against in (SPEED, BYTES):
        found = spots(rows, against)
        if not found:
            continue
        marks = [Mark(s.number, s.x, s.y, s.on_front) for s in found]
        x = Axis("KL divergence, nat per token (# of the table; bold: on the front)", units.digits, True)
        parts.append(text_plot.scatter(marks, x, Axis(against.words, units.ratio), level=1.0))
    return Text("\n\n").join(parts) if parts else None
