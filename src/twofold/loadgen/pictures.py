"""What was measured of a server as plots."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.loadgen.measure import latency
from twofold.loadgen.report import NAMES, Shown, statistics
from twofold.report import units
from twofold.report.curves import curves
from twofold.report.pictures import Picture
from twofold.report.plots import DASHES
from twofold.report.svg import COLOURS, drawing, legend, to_svg


def pictures(shown: Sequence[Shown]) -> list[Picture]:
    """Curves over the sweep, measured and predicted, and how latencies are distributed at each point."""
    found = []
    if len(shown) > 1:
        found += [_curve(shown, name) for name in ("ttft", "tpot") if _has(shown, name)]
        speeds = {"measured": [(_x(one), one.point.measured.tokens_per_s) for one in shown]}
        told = [
            (_x(one), one.predicted.tokens_per_s.mid)
            for one in shown
            if one.predicted is not None and one.predicted.tokens_per_s is not None
        ]
        found.append(
            Picture(
                "Throughput",
                "Generated tokens per second at each load." + (" Dashed: predicted." if told else ""),
                curves(
                    speeds,
                    x=_axis(shown),
                    y="generated token/s",
                    name="serve-speed",
                    bounds={"predicted": told} if told else None,
                ),
            )
        )
    for name in ("ttft", "tpot", "e2e"):
        if _has(shown, name):
            found.append(_distribution(shown, name))
    return found


def _has(shown: Sequence[Shown], name: str) -> bool:
    """Whether there is something to draw: pieces that were read in one go are no time apart."""
    return any(
        found == name and summary.p99 > 0
        for one in shown
        for found, summary in one.point.measured.latencies.items()
    )


def _x(one: Shown) -> float:
    load = one.point.load
    return float(load.concurrency or (load.arrivals.rate if load.arrivals is not None else 1.0))


def _axis(shown: Sequence[Shown]) -> str:
    return "requests at a time" if shown[0].point.load.concurrency else "requests per second that arrive"


def _curve(shown: Sequence[Shown], name: str) -> Picture:
    series = {
        s: [
            (_x(o), getattr(o.point.measured.latencies[name], s))
            for o in shown
            if name in o.point.measured.latencies
        ]
        for s in ("p50", "p99")
    }
    told = [
        (_x(o), p["p50"]) for o in shown if o.predicted is not None and (p := statistics(o.predicted, name))
    ]
    return Picture(
        NAMES[name],
        "Median and 99th percentile over requests at each load."
        + (" Dashed: the predicted median." if told else ""),
        curves(
            series,
            x=_axis(shown),
            y=NAMES[name],
            name=f"serve-{name}",
            bounds={"predicted p50": told} if told else None,
            unit="s",
        ),
    )


def _distribution(shown: Sequence[Shown], name: str) -> Picture:
    """Share of requests below each latency, a line per point."""
    with drawing(3.0) as (figure, axes):
        told = []
        for index, one in enumerate(shown):
            values = sorted(v for x in one.point.exchanges if (v := latency(name, x)) is not None)
            if not values:
                continue
            shares = [(i + 1) / len(values) * 100 for i in range(len(values))]
            colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
            axes.step(
                [v * 1e3 for v in values],
                shares,
                where="post",
                color=colour,
                ls=dash,
                lw=1.5,
                label=one.point.name,
            )
            told.append(f"{one.point.name}: half below {units.seconds(values[len(values) // 2])}")
        axes.set(xlabel=f"{NAMES[name]}, ms", ylabel="% of requests", ylim=(0, 102))
        legend(figure, axes, columns=3)
        svg = to_svg(
            figure, f"serve-{name}-distribution", f"Distribution of {NAMES[name]}. {'; '.join(told)}."
        )
    return Picture(f"Distribution of {NAMES[name]}", "Share of requests that took at most so long.", svg)
