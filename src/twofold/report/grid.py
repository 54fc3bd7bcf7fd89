"""What a table says, before anybody decides how it looks: the terminal, Markdown and HTML print the same
cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading and where its cells align. `unit` is printed small under the heading."""

    heading: str
    unit: str = ""
    align: Align = "right"


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table. `span` replaces all cells after the first by one sentence."""

    cells: tuple[str, ...]
    span: str | None = None
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: title, columns, lines, notes that explain the columns."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())
