"""Single operators on their own, called from the host and waited for; and products of serving software."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from twofold.fit.points import read_operators, read_products
from twofold.measured.operators import PATTERNS, PRODUCTS, find_operators, find_products
from twofold.validate.beside import beside
from twofold.validate.group import Progress
from twofold.validate.sample import Sample

NAME = "operators"
TITLE = "Single operators"
FILES = (*PATTERNS, PRODUCTS)


def wanted(folder: Path) -> list[Path]:
    """The tables of operators and of products."""
    return [*find_operators(folder), *find_products(folder)]


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """Every row of every table."""
    return beside(NAME, [*read_operators(folder), *read_products(folder)], progress)
