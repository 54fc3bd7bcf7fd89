"""The Pareto plots of an exploration: every candidate that meets all constraints, and the front among
them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from twofold.explore.objectives import TITLES, UNITS
from twofold.explore.outcome import CandidateRow, ExplorationResult, Figures
from twofold.explore.plan import Objective
from twofold.report import units
from twofold.report.pictures import Picture
from twofold.report.svg import COLOURS, INK, MARKERS, drawing, label_points, legend, to_svg

MOST = 1500
"""Points off the front that are drawn; of more, every n-th."""
_READ: dict[Objective, Callable[[Figures], float | None]] = {
    "cost": lambda f: f.usd_per_million,
    "energy": lambda f: f.joules_per_token,
    "latency": lambda f: f.e2e,
    "throughput": lambda f: f.tokens_per_s,
}


def pictures(result: ExplorationResult) -> list[Picture]:
    """One plot of the first objective against each other one; against latency where there is no other."""
    first, *others = result.objectives
    others = others or [name for name in ("latency", "energy") if name != first][:1]
    met = [row for row in result.candidates if not row.constraint and row.estimate is not None]
    return list(_plots(result, met, first, others)) if met else []


def _plots(
    result: ExplorationResult, met: Sequence[CandidateRow], first: Objective, others: Sequence[Objective]
) -> Iterator[Picture]:
    for other in others:
        drawn = [row for row in met if not row.on_front]
        left_out = ""
        if len(drawn) > MOST:
            stride = -(-len(drawn) // MOST)
            left_out = f" Of the others every {stride}th is drawn."
            drawn = drawn[::stride]
        yield Picture(
            f"{TITLES[first].capitalize()} against {TITLES[other]}",
            "Each point is a deployment that meets every constraint, as estimated; large ones are on the "
            "front: nothing is better in every objective. Numbers are those of the table of winners."
            + left_out,
            pareto(result, [*drawn, *(row for row in met if row.on_front)], first, other),
        )


def pareto(
    result: ExplorationResult, rows: Sequence[CandidateRow], first: Objective, other: Objective
) -> str:
    """`rows` with `other` on the x axis and `first` on the y axis, both logarithmic, coloured by device."""
    devices = list(dict.fromkeys(row.place.device for row in sorted(rows, key=lambda row: row.number)))
    places = {}
    with drawing(4.2) as (figure, axes):
        for index, device in enumerate(devices):
            for on_front in (False, True):
                points = []
                for row in rows:
                    if row.place.device != device or row.on_front is not on_front or row.estimate is None:
                        continue
                    x, y = _READ[other](row.estimate), _READ[first](row.estimate)
                    if x and y:
                        points.append((x, y))
                        places[row.number] = (x, y)
                if points:
                    axes.scatter(
                        *zip(*points, strict=True),
                        s=42 if on_front else 9,
                        alpha=1.0 if on_front else 0.3,
                        color=COLOURS[index % len(COLOURS)],
                        marker=MARKERS[index % len(MARKERS)],
                        linewidths=0.8 if on_front else 0,
                        edgecolors=INK if on_front else "none",
                        zorder=3 if on_front else 2,
                    )
            axes.scatter(
                [],
                [],
                s=34,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                label=device,
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=f"{TITLES[other]}, {UNITS[other]}",
            ylabel=f"{TITLES[first]}, {UNITS[first]}",
        )
        axes.margins(0.08)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
            axis.set_minor_formatter(NullFormatter())
        legend(figure, axes, columns=3)
        labels = [
            (*places[winner.number], str(index + 1))
            for index, winner in enumerate(result.winners)
            if winner.number in places
        ]
        label_points(axes, labels)
        told = "; ".join(
            f"{winner.label}: {units.digits(places[winner.number][1])} {UNITS[first]} at "
            f"{units.digits(places[winner.number][0])} {UNITS[other]}"
            for winner in result.winners
            if winner.number in places
        )
        return to_svg(figure, f"pareto-{first}-{other}", f"{TITLES[first]} against {TITLES[other]}. {told}")
