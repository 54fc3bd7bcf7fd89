"""What a group of measurements is to the command that collects them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from twofold.validate.sample import Sample

Progress = Callable[[str, int, int], None]
"""Called with what is done now, how much of it is done, and how much there is."""


class Group(Protocol):
    """A module of `validate/groups`. It raises ValueError for a file that it cannot read, with the file's
    name.

    A module that cannot predict all that it reads also has a function `left_out(folder)`, which says why and
    how often.
    """

    @property
    def NAME(self) -> str:  # noqa: N802
        """What users write after `--group`."""

    @property
    def TITLE(self) -> str:  # noqa: N802
        """What stands in its rows."""

    @property
    def FILES(self) -> tuple[str, ...]:  # noqa: N802
        """Patterns of the files that it reads in a data folder, or what else it needs; empty: nothing."""

    def wanted(self, folder: Path) -> list[Path]:
        """The files at hand that `samples` reads, companions included; empty: there is nothing to compare."""

    def samples(self, folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
        """Every measurement at hand beside its prediction."""
