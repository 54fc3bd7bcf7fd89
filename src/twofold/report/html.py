"""The report as one HTML file that needs nothing else: tables, plots, and what lies behind the numbers."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from twofold.report import units
from twofold.report.comparison import Comparison, Row
from twofold.report.comparison_grids import all_grids, median_speedup_error, speedup
from twofold.report.grid import Align, Grid
from twofold.report.pictures import pictures
from twofold.report.result_grid import result_grids, value_text
from twofold.report.schema import Result


def render(comparison: Comparison) -> str:
    """A complete HTML page for a comparison."""
    return _page(comparison, all_grids(comparison), summary(comparison))


def render_result(result: Result) -> str:
    """A complete HTML page for one result."""
    return _page(Comparison.single(result), result_grids(result), [])


def make_environment() -> Environment:
    """The templates of all pages with their filters."""
    environment = Environment(
        loader=PackageLoader("twofold.report"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["heading_groups"] = heading_groups
    environment.filters["value"] = value_text
    environment.filters["prose"] = _prose
    environment.filters["label"] = _label
    return environment


def _page(comparison: Comparison, grids: list[Grid], sentences: list[str]) -> str:
    environment = make_environment()
    drawn = [picture._replace(svg=Markup(picture.svg)) for picture in pictures(comparison)]
    return environment.get_template("report.html").render(
        comparison=comparison,
        summary=sentences,
        grids=grids,
        pictures=drawn,
        confidences=sorted({r.confidence for r in comparison.results}),
        host=_reference(comparison).host if comparison.results else None,
        rows=[(row, shown) for row in comparison.all_rows if (shown := row.measured or row.predicted_here)],
        derived=_reference(comparison).derived if comparison.results else {},
    )


def write(shown: Comparison | Result, path: Path) -> None:
    """Write the page to `path`; ValueError if that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            render(shown) if isinstance(shown, Comparison) else render_result(shown), encoding="utf-8"
        )
    except OSError as error:
        raise ValueError(f"cannot write the report to {path}: {error.strerror}") from error


def summary(comparison: Comparison) -> list[str]:
    """What a hurried reader should know, in at most four sentences, each only where the numbers carry it."""
    base, said = comparison.baseline, []
    gains = {row.label: gain for row in comparison.rows if (gain := speedup(row, base)) is not None}
    if gains:
        best = max(gains, key=lambda label: gains[label])
        if gains[best] > 1:
            said.append(
                f"Fastest on {comparison.device}: {best}, {units.ratio(gains[best])} the baseline's token/s."
            )
        else:
            said.append(f"No row is faster than the baseline on {comparison.device}.")
        exact = {
            row.label: gains[row.label] for row in comparison.rows if row.label in gains and _unchanged(row)
        }
        lossless = max(exact, key=lambda label: exact[label], default=None)
        if lossless is not None and lossless != best and exact[lossless] > 1:
            said.append(
                f"Fastest with unchanged output, as measured: {lossless}, {units.ratio(exact[lossless])}."
            )
    totals = {row.label: row.measured.memory.total.mid for row in comparison.all_rows if row.measured}
    if len(totals) > 1 and base.label in totals:
        least = min(totals, key=lambda label: totals[label])
        if totals[least] < totals[base.label]:
            few, all_of_it = units.si(totals[least], "B"), units.si(totals[base.label], "B")
            said.append(f"Least memory: {least}, {few} instead of {all_of_it}.")
    error = comparison.median_error("tpot")
    if error is not None:
        ratios = median_speedup_error(comparison)
        said.append(
            f"TPOT predicted for {comparison.device} is off by {error * 100:.0f} % in the median over rows"
            + (f", speed over the baseline's by {ratios * 100:.0f} %." if ratios is not None else ".")
        )
    return said


def heading_groups(grid: Grid) -> list[tuple[str, int, Align]]:
    """(heading, number of columns under it, where it aligns): a heading without text belongs to the one on
    its left."""
    groups: list[tuple[str, int, Align]] = []
    for column in grid.columns:
        if column.heading or not groups:
            groups.append((column.heading, 1, column.align))
        else:
            heading, count, align = groups[-1]
            groups[-1] = (heading, count + 1, align)
    return groups


def _unchanged(row: Row) -> bool:
    """Whether quality was measured and shows no difference to the unmodified model."""
    quality = row.measured.quality if row.measured else None
    return quality is not None and quality.top1_agreement is not None and quality.top1_agreement.mid == 1


def _reference(comparison: Comparison) -> Result:
    """The result that speaks for the machine: the baseline's measurement, or the first there is."""
    return comparison.baseline.measured or comparison.results[0]


def _prose(text: str) -> str:
    """Text in which a number is not torn from its percent sign."""
    return text.replace(" %", "\u00a0%")


def _label(text: str) -> Markup:
    """A row's label that may be broken where its parameters begin."""
    return Markup("(<wbr>").join(text.split("("))
