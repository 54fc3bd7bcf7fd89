"""Linear-side operations of a layer, by token count and tensor parallelism: kernel times in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twofold.fit.points import read_layers
from twofold.measured.linear_ops import PATTERN, find_linear_ops
from twofold.validate.beside import beside
from twofold.validate.group import Progress
from twofold.validate.sample import Sample

NAME = "linear-ops"
TITLE = "Linear-side operations of a layer"
FILES = (PATTERN,)


def wanted(folder: Path) -> list[Path]:
    """The tables of layers."""
    return find_linear_ops(folder)


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """Every operation of every row."""
    return beside(NAME, read_layers(folder), progress)
