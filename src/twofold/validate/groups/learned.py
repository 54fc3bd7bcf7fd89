"""Products predicted by a learned model (see `fit.learned`), trained on the same half as the analytical
one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from twofold.fit.learned import LearnedProducts, available, learnable
from twofold.fit.points import read_points
from twofold.measured.linear_ops import PATTERN, find_linear_ops
from twofold.measured.operators import PRODUCTS, find_operators, find_products
from twofold.validate.beside import beside
from twofold.validate.group import Progress
from twofold.validate.sample import LEARNED, Sample

NAME = "learned-products"
TITLE = "Products by a random forest, for comparison"
FILES = ("scikit-learn (pip install 'twofold[learn]')", PATTERN, PRODUCTS)


def wanted(folder: Path) -> list[Path]:
    """The tables with products; none without scikit-learn."""
    if not available():
        return []
    matmul = [path for path in find_operators(folder) if path.name.startswith("matmul-")]
    return [*find_linear_ops(folder), *find_products(folder), *matmul]


def samples(folder: Path, progress: Progress | None = None) -> Iterator[Sample]:
    """Every product in 16 bits: those that the forest has seen (fitted) and those that it has not."""
    points = learnable(read_points(folder))
    model = LearnedProducts([p for p in points if p.fitted])
    for sample in beside(NAME, points, progress, model.predict):
        yield replace(sample, label=LEARNED)
