"""Tables for the terminal (rich) and for Markdown, from the same cells."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from twofold.report import tradeoff_plots
from twofold.report.comparison import Comparison
from twofold.report.comparison_grids import all_grids
from twofold.report.glance import glance_grid
from twofold.report.grid import Grid
from twofold.report.result_grid import result_grids
from twofold.report.schema import Result


def render(comparison: Comparison) -> RenderableType:
    """The whole comparison for a rich console; made to be read at 100 columns and more. What it comes to
    stands last, where a terminal is read first."""
    notes = [Text(f"note: {note}", style="dim") for note in comparison.notes]
    plots = tradeoff_plots.text(comparison.tradeoffs)
    drawn = [] if plots is None else [plots, Text("")]
    glance = glance_grid(comparison)
    last = [] if glance is None else [Text(""), render_grid(glance)]
    return Group(_render(heading(comparison), all_grids(comparison)), *drawn, *notes, *last)


def render_result(result: Result) -> RenderableType:
    """Everything that one result says, for a rich console."""
    return _render(heading(result), result_grids(result))


def _render(title: str, tables: Sequence[Grid]) -> Group:
    parts: list[RenderableType] = [Text(title, style="bold"), Text("")]
    parts += [part for grid in tables for part in (render_grid(grid), Text(""))]
    return Group(*parts)


def render_grid(grid: Grid) -> RenderableType:
    """One table with its notes for a rich console."""
    table = Table(
        title=grid.title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
    )
    for column in grid.columns:
        head = Text(column.heading)
        if column.unit:
            head.append(f"\n{column.unit}", style="dim")
        table.add_column(
            head,
            justify=column.align,
            no_wrap=column.align == "right",
            overflow="fold",
            min_width=20 if column.align == "left" else None,
        )
    after: list[RenderableType] = []
    for line in grid.lines:
        if line.span is None:
            table.add_row(*(Text(cell) for cell in line.cells), style="bold" if line.strong else "")
        else:  # rich has no spanning cells; under the table the sentence has the whole width
            after.append(Text(f"{line.cells[0]} {line.span}", style="yellow"))
    after += [Text(note, style="dim") for note in grid.notes]
    return Group(table, *after)


def to_text(shown: Comparison | Result, width: int = 120) -> str:
    """A comparison or a result as plain text, at most `width` columns wide."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(
        render(shown) if isinstance(shown, Comparison) else render_result(shown)
    )
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def to_markdown(shown: Comparison | Result) -> str:
    """The tables of a comparison or a result in GitHub's Markdown, each under its title."""
    tables = all_grids(shown) if isinstance(shown, Comparison) else result_grids(shown)
    return f"{heading(shown)}\n\n" + "\n".join(grid_to_markdown(g) for g in tables)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def grid_to_markdown(grid: Grid) -> str:
    """One table in GitHub's Markdown, with its title in bold and its notes below."""
    headings, group = [], ""
    for column in grid.columns:
        group = column.heading or group  # a heading without text belongs to the one on its left
        headings.append(_escape(f"{group} ({column.unit})" if column.unit else group))
    rows = ["| " + " | ".join(headings) + " |"]
    rows.append("|" + "|".join(" --- " if c.align == "left" else " ---: " for c in grid.columns) + "|")
    for line in grid.lines:
        cells = [_escape(c) for c in line.cells]
        if line.span is not None:
            cells += [_escape(line.span)] + [""] * (len(grid.columns) - 2)
        elif line.strong:
            cells[0] = f"**{cells[0]}**"
        rows.append("| " + " | ".join(cells) + " |")
    notes = "".join(f"\n{_escape(note)}  " for note in grid.notes)
    return f"**{_escape(grid.title)}**\n\n" + "\n".join(rows) + "\n" + (notes + "\n" if notes else "")


def heading(shown: Comparison | Result) -> str:
    """What was compared or run, on what, under which load."""
    title = shown.title if isinstance(shown, Comparison) else shown.label
    return f"{title}: {shown.model} on {shown.device}, {shown.workload.summary}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
