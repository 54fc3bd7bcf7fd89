"""Keeping what a command measured or predicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twofold.cli.errors import complain

if TYPE_CHECKING:
    from twofold.report.store import Store


def open_store() -> Store:
    """The results database; what it has to say is a warning."""
    from twofold.report.store import Store

    return Store(notify=lambda message: complain(message, "warning"))


def keep(save: Callable[[Store], int]) -> None:
    """Keep results. Where the database cannot be written, they are in a file beside it, which the warning
    names."""
    from twofold.report.store import NotSavedError

    try:
        save(open_store())
    except NotSavedError as error:
        complain(str(error), "warning")
