"""Which plots a comparison is shown with, and the sentence under each: from results to the numbers that
plots take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from twofold.report import plots, tradeoff_plots
from twofold.report.bars import Bar, Group, stacked
from twofold.report.comparison import Comparison, Row
from twofold.report.comparison_grids import speedup
from twofold.report.plots import Point
from twofold.report.roofline import roofline
from twofold.report.schema import Memory, OpShare, Result


class Picture(NamedTuple):
    """A plot with its title and a caption that says what to see."""

    title: str
    caption: str
    svg: str


def pictures(comparison: Comparison) -> list[Picture]:
    """Every plot for which the comparison has the numbers, in reading order."""
    makers = (_quality, _memory, _latency, _roofline, _agreement, _speedups, _devices)
    return [picture for make in makers for picture in make(comparison)]


def _shown(row: Row) -> Result | None:
    """What stands for a row: its measurement, or a prediction where nothing was measured."""
    return row.measured or row.predicted_here or next(iter(row.predicted_elsewhere.values()), None)


def _quality(comparison: Comparison) -> Iterator[Picture]:
    rows = comparison.tradeoffs
    for against, title, read in (
        (tradeoff_plots.SPEED, "Speed against quality", "Up is faster"),
        (tradeoff_plots.BYTES, "Bytes against quality", "Down is smaller"),
    ):
        found = tradeoff_plots.spots(rows, against)
        if not found:
            continue
        numbers = len(found) > tradeoff_plots.NAMED
        yield Picture(
            title,
            f"{read} than the baseline (dashed), left is closer to the unmodified model; what stands at zero "
            "changes nothing in the output. Large points are on the front of quality, bytes and speed; the "
            "line is the best of this plot at that quality or better."
            + (" Numbers are those of the table." if numbers else ""),
            tradeoff_plots.svg(found, against),
        )


def _memory(comparison: Comparison) -> Iterator[Picture]:
    groups, capacity = [], None
    for row in comparison.all_rows:
        result = _shown(row)
        if result is not None:
            groups.append(Group(row.label, [Bar("", _parts(result.memory))]))
            capacity = result.memory.capacity or capacity
    measured = any(row.measured for row in comparison.all_rows)
    if groups:
        yield Picture(
            "Memory by part",
            "Counted bytes at the peak, per device"
            + ("; unaccounted is what the process uses beyond them." if measured else "."),
            stacked(
                groups, "B", name="memory", title="Memory by part", limit=capacity.mid if capacity else None
            ),
        )


def _parts(memory: Memory) -> dict[str, float]:
    parts = {
        name: getattr(memory, name).mid
        for name in ("weights", "cache", "activations", "other")
        if getattr(memory, name).mid
    }
    if memory.unaccounted is not None and memory.unaccounted.mid > 0:
        parts["unaccounted"] = memory.unaccounted.mid
    return parts


def _latency(comparison: Comparison) -> Iterator[Picture]:
    groups = []
    both = any(row.measured and row.predicted_here for row in comparison.all_rows)
    for row in comparison.all_rows:
        pair = ((row.measured, "measured", False), (row.predicted_here, "predicted", both))
        bars = [
            Bar(caption, {op.kind: op.seconds for op in result.breakdown}, faint)
            for result, caption, faint in pair
            if result is not None and any(op.seconds for op in result.breakdown)
        ]
        if bars:
            groups.append(Group(row.label, bars))
    if groups:
        yield Picture(
            "Time by kind of op",
            "Where the seconds go, measured above predicted (paler): the parts should agree, not only sums."
            if both
            else "Where the seconds go.",
            stacked(groups, "s", name="latency", title="Time by kind of op"),
        )


def _roofline(comparison: Comparison) -> Iterator[Picture]:
    base = comparison.baseline
    source = next(
        (r for r in (base.measured, base.predicted_here) if r is not None and _points(r.breakdown)),
        None,
    )
    roofs = next(
        (r.ceilings for r in (base.measured, base.predicted_here) if r is not None and r.ceilings), None
    )
    if source is None or roofs is None:
        return
    series = {f"ops of {base.label}": _points(source.breakdown)}
    gains = {row.label: speedup(row, base) or 0.0 for row in comparison.rows}
    fastest = max(comparison.rows, key=lambda row: gains[row.label], default=None)
    same = fastest and (fastest.measured if source.kind == "run" else fastest.predicted_here)
    if fastest is not None and same and _points(same.breakdown):
        series[f"ops of {fastest.label}"] = _points(same.breakdown)
    word = "Measured" if source.kind == "run" else "Predicted"
    limits = {"attention, I/O bound": x} if (x := roofs.attention_intensity) else {}
    yield Picture(
        "Roofline",
        f"{word} ops under the ceilings of {comparison.device}"
        + (f" ({roofs.source})" if roofs.source else "")
        + ". On the slope memory is the limit, under the flat roof arithmetic is; the distance to the line "
        "is what better kernels could gain."
        + (
            " Right of the dotted line no exact attention can come: its traffic has a lower bound."
            if limits
            else ""
        ),
        roofline(series, roofs.gb_s, roofs.gflop_s, limits=limits),
    )


def _points(breakdown: list[OpShare]) -> list[Point]:
    """Intensity and GFLOP/s of the kinds of op that do arithmetic, those with the most time first."""
    ops = sorted(breakdown, key=lambda op: -op.seconds)
    return [
        Point(op.kind, op.flop / op.bytes, op.flop / op.seconds / 1e9)
        for op in ops
        if op.flop > 0 and op.bytes > 0 and op.seconds > 0
    ]


def _agreement(comparison: Comparison) -> Iterator[Picture]:
    series: dict[str, list[Point]] = {}
    for name, label in (("ttft", "TTFT"), ("tpot", "TPOT"), ("e2e", "end to end")):
        for row in comparison.all_rows:
            if row.measured is None or row.predicted_here is None:
                continue
            seen, told = row.measured.figure(name), row.predicted_here.figure(name)
            if seen and told and seen.mid > 0 and told.mid > 0:
                series.setdefault(label, []).append(Point(row.label, seen.mid, told.mid))
    if series:
        yield Picture(
            "Predicted against measured",
            "Every row's times on this machine. On the line the prediction is right; the band is ±25 %.",
            plots.predicted_against_measured(series),
        )


def _gains(comparison: Comparison, row: Row) -> dict[str, float]:
    """Speed-up by device: measured here (else predicted here), predicted elsewhere."""
    gains = {comparison.device: speedup(row, comparison.baseline)}
    gains |= {device: speedup(row, comparison.baseline, device) for device in comparison.devices}
    return {device: gain for device, gain in gains.items() if gain is not None}


def _speedups(comparison: Comparison) -> Iterator[Picture]:
    rows = [(row.label, _gains(comparison, row)) for row in comparison.rows if not row.without_results]
    rows = [(label, gains) for label, gains in rows if gains]
    if rows and comparison.devices:
        here = comparison.baseline.measured is not None
        told = f"{comparison.device} is measured, the others are predicted" if here else "All are predicted"
        yield Picture(
            "What each technique gains where",
            f"{told}, each over its own baseline. A technique whose marks "
            "lie far apart pays on one device and not on another.",
            plots.device_speedups(rows),
        )


def _devices(comparison: Comparison) -> Iterator[Picture]:
    found = []
    for device in (comparison.device, *comparison.devices):
        speeds = {}
        for row in comparison.all_rows:
            here = row.measured if comparison.baseline.measured else row.predicted_here
            result = here if device == comparison.device else row.predicted_elsewhere.get(device)
            if result is not None and result.tokens_per_s is not None and result.tokens_per_s.mid > 0:
                speeds[row.label] = result.tokens_per_s.mid
        base = speeds.pop(comparison.baseline.label, None)
        if base is not None and speeds:
            best = max(speeds, key=lambda label: speeds[label])
            found.append((device, base, speeds[best], best))
    if len(found) > 1:
        yield Picture(
            "The same plan on other devices",
            "From the baseline to the fastest row, on a logarithmic scale: the length of a line is what "
            "techniques give, the distance between lines what hardware gives.",
            plots.device_speed(found),
        )
