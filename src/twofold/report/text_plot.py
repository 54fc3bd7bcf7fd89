"""A scatter plot made of characters: the numbers of a table's rows, placed by two of their figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.text import Text

WIDTH, HEIGHT = 72, 16
"""Columns and lines of the area inside the axes."""


class Mark(NamedTuple):
    """A point that is drawn as its number; `strong` ones are bold and keep their place before others."""

    number: int
    x: float
    y: float
    strong: bool


class Axis(NamedTuple):
    """What an axis says: its name, and how the values at its ends are written. logarithmic: with zero set
    apart at the low end."""

    name: str
    write: Callable[[float], str]
    logarithmic: bool = False


def scatter(marks: Sequence[Mark], x: Axis, y: Axis, *, level: float | None = None) -> Text:
    """The marks over both axes; where two would cover each other, one moves to the nearest free place on its
    line, so that a row of numbers is a cluster. level: a value of y that is drawn as a dashed line."""
    assert marks, "nothing to draw"
    across = _Scale([m.x for m in marks], WIDTH - 3, x.logarithmic)
    up = _Scale([m.y for m in marks] + ([] if level is None else [level]), HEIGHT - 1, y.logarithmic)
    cells: list[list[tuple[str, str]]] = [[(" ", "")] * WIDTH for _ in range(HEIGHT)]
    if level is not None:
        cells[HEIGHT - 1 - up.place(level)] = [("-" if i % 2 else " ", "dim") for i in range(WIDTH)]
    taken: set[tuple[int, int]] = set()
    for mark in sorted(marks, key=lambda m: not m.strong):
        text = str(mark.number)
        line = HEIGHT - 1 - up.place(mark.y)
        column = _free(taken, line, across.place(mark.x), len(text))
        taken |= {(line, column + i) for i in range(-1, len(text) + 1)}
        for i, character in enumerate(text):
            cells[line][column + i] = (character, "bold green" if mark.strong else "")
    beside = {up.place(value): y.write(value) for value in (up.low, up.high)}
    if level is not None:
        beside[up.place(level)] = y.write(level)
    return _framed(cells, x, y.name, across, beside)


class _Scale:
    """Values to places 0 … `last`. logarithmic: zeros stand at place 0, the rest a gap above it."""

    def __init__(self, values: Sequence[float], last: int, logarithmic: bool) -> None:
        self.last, self.logarithmic = last, logarithmic
        shown = [v for v in values if v > 0] if logarithmic else list(values)
        self.low, self.high = min(shown, default=0.0), max(shown, default=0.0)
        self.first = last // 8 if logarithmic and len(shown) < len(values) else 0
        """The place of `low`."""

    def place(self, value: float) -> int:
        if self.logarithmic and value <= 0:
            return 0
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.first + round(share * (self.last - self.first))


def _free(taken: set[tuple[int, int]], line: int, wanted: int, length: int) -> int:
    """The free column nearest to `wanted`, or `wanted` where the whole line is taken."""
    places = sorted(range(WIDTH - length + 1), key=lambda column: abs(column - wanted))
    for column in places:
        if all((line, column + i) not in taken for i in range(length)):
            return column
    return min(wanted, WIDTH - length)


def _framed(
    cells: list[list[tuple[str, str]]], x: Axis, name: str, across: _Scale, beside: Mapping[int, str]
) -> Text:
    """The cells with both axes. beside: what stands left of a line, counted from below."""
    edge = max(map(len, beside.values()))
    out = Text(f"{'':{edge}}  {name}\n")
    for index, row in enumerate(cells):
        out.append(f"{beside.get(HEIGHT - 1 - index, ''):>{edge}} │")
        for character, style in row:
            out.append(character, style=style)
        out.append("\n")
    out.append(f"{'':{edge}} └{'─' * WIDTH}\n")
    low, high = x.write(across.low), x.write(across.high)
    places = [(0, x.write(0.0))] if across.first else []
    places += [(across.first, low), (WIDTH - len(high), high)] if across.high > across.low else [(0, low)]
    line = [" "] * WIDTH
    for column, text in places:
        line[column : column + len(text)] = text
    out.append(f"{'':{edge}}  {''.join(line)}\n{'':{edge}}  {x.name}")
    return out
