"""What the ways of fetching a model share: their error and how they tell how far they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress


class PullError(ValueError):
    """A model could not be fetched; the message is one for the user."""


class Progress(Protocol):
    """Told how far a pull is: stage "download", "extract" or "verify", bytes done, bytes in all (approximate
    for a download; 0 = not known)."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""
    del stage, done, total


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """A `Progress` that draws one bar per stage on `console` (standard error where none is given)."""
    bar = RichProgress(
        TextColumn("{task.description:9}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
    )
    tasks: dict[str, object] = {}

    def report(stage: str, done: int, total: int) -> None:
        task = tasks.setdefault(stage, None)
        if task is None:
            task = tasks[stage] = bar.add_task(stage, total=total or None)
        bar.update(task, completed=min(done, total) if total else done, total=total or None)  # type: ignore[arg-type]

    with bar:
        yield report
