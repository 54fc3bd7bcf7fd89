"""A comparison in one table: what each row does to speed, bytes and quality here, how far off its prediction
was, and what it is predicted to do elsewhere."""

from __future__ import annotations

from twofold.report import units
from twofold.report.comparison import Comparison, Row
from twofold.report.comparison_grids import speedup
from twofold.report.grid import Column, Grid, Line
from twofold.report.schema import Figure, Result
from twofold.report.tradeoff import Tradeoff


def glance_grid(comparison: Comparison) -> Grid | None:
    """One line per row. The baseline's is in tokens per second and bytes, the others' are ratios to it. None
    where the baseline was not measured or there is nothing beside it."""
    base = comparison.baseline.measured
    found = {row.label: row for row in comparison.tradeoffs}
    if base is None or len(found) < 2:
        return None
    columns = (
        Column("technique", align="left"),
        Column("speed here", "measured"),
        Column("", "predicted"),
        Column("all bytes", "measured"),
        Column("KL", "nat/token"),
        *(Column("" if i else "speed", f"on {d}") for i, d in enumerate(comparison.devices)),
    )
    first = (
        comparison.baseline.label,
        _speed(comparison.baseline, None),
        units.middle(_figure(comparison.baseline.predicted_here)),
        units.middle(base.memory.total),
        _kl(found[comparison.baseline.label]),
        *(_speed(comparison.baseline, device) for device in comparison.devices),
    )
    lines = [Line(first, strong=True)]
    lines += [_line(row, found[row.label], comparison) for row in comparison.rows if row.label in found]
    turns = ", measured in turn with it" if any(row.beside for row in comparison.rows) else ""
    notes = [
        f"tokens per second and bytes over the baseline's{turns}; predicted: the same ratio on "
        f"{comparison.device}, and, on the other devices, over their own baseline"
    ]
    without = [row.label for row in comparison.rows if row.label not in found]
    notes += [f"without results: {', '.join(without)}"] if without else []
    return Grid("At a glance", columns, tuple(lines), tuple(notes))


def _line(row: Row, over: Tradeoff, comparison: Comparison) -> Line:
    base = comparison.baseline
    ours, theirs = _figure(row.predicted_here), _figure(base.predicted_here)
    cells = (
        row.label,
        _times(over.tokens_per_s),
        _times(ours.mid / theirs.mid if ours and theirs and theirs.mid else None),
        _times(over.bytes),
        _kl(over),
        *(
            "refused" if device in row.refused_elsewhere else _times(speedup(row, base, device))
            for device in comparison.devices
        ),
    )
    return Line(cells)


def _figure(result: Result | None) -> Figure | None:
    return result.tokens_per_s if result else None


def _speed(row: Row, device: str | None) -> str:
    return units.middle(_figure(row.measured if device is None else row.predicted_elsewhere.get(device)))


def _kl(over: Tradeoff) -> str:
    return units.UNKNOWN if over.kl_divergence is None else units.digits(over.kl_divergence)


def _times(value: float | None) -> str:
    return units.UNKNOWN if value is None else units.ratio(value)
