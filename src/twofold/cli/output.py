"""Where things are printed: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

PLAIN_WIDTH = 160
"""Columns that tables are laid out for where the output is no terminal."""


def show(renderable: RenderableType) -> None:
    """A table or text for people, on standard output."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else PLAIN_WIDTH, soft_wrap=False).print(renderable)


def show_json(value: Any) -> None:
    """`value` as JSON on standard output; NaN and infinity never leave."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def plain_table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> None:
    """A simple table on standard output; `right` are the columns that hold numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        is_number = number in right
        table.add_column(
            heading, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    show(table)


class Bar:
    """A `Progress` for jobs: one line on the terminal that says what is done now and how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` of `what` is done."""
        if self._task is None or what != self._what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._what = self._progress.add_task(what, total=total or None), what
        self._progress.update(self._task, completed=done, total=total or None)


def _nothing(what: str, done: int, total: int) -> None:
    del what, done, total


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A callback (what, done, total) that draws a bar where standard error is a terminal, and nothing
    elsewhere."""
    if not sys.stderr.isatty():
        yield _nothing
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Few refreshes: drawing takes processor time from what is being measured.
    with Progress(*columns, console=error_console(), transient=True, refresh_per_second=2) as progress:
        yield Bar(progress)


def error_console() -> Console:
    """A rich console on standard error."""
    from rich.console import Console

    return Console(stderr=True)
