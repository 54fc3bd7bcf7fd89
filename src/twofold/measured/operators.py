"""Measured times of single operators.

`matmul-<gpu>.csv`, `gelu-`, `softmax-` and `layernorm-<gpu>.csv` have the columns of the LLMCompass project's
measurements (no header): rows, depth, cols, time and rate of fp16 products; sizes and 10^9 elements/s of the
others. `products-<gpu>.csv` (with a header) holds products in any precision: kernel times of serving
software.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from twofold.errors import nearest

Kind = Literal["gelu", "softmax", "layernorm"]
KINDS: tuple[Kind, ...] = ("gelu", "softmax", "layernorm")
PATTERNS = ("matmul-*.csv", *(f"{kind}-*.csv" for kind in KINDS))
PRODUCTS = "products-*.csv"
HOST_SECONDS = {"matmul": 21e-6, "softmax": 12e-6, "layernorm": 45e-6, "gelu": 45e-6}
"""What the host takes to call an operator in those measurements, which time each call from the host and wait
for it: LLMCompass, `overhead_dict["A100"]` of its hardware model."""
COLUMNS = ("rows", "depth", "cols", "precision", "format", "seconds", "software")


@dataclass(frozen=True, slots=True)
class ProductTimes:
    """A [rows, depth] × [depth, cols] product. precision: of the multiplication; format: of the stored
    weights."""

    rows: int
    depth: int
    cols: int
    seconds: float
    precision: str = "fp16"
    format: str = "f16"
    software: str = ""


@dataclass(frozen=True, slots=True)
class ElementTimes:
    """An elementwise operator on [rows, cols] in fp16."""

    kind: Kind
    rows: int
    cols: int
    seconds: float


def find_operators(folder: Path) -> list[Path]:
    """The tables of single operators in `folder`, sorted."""
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))


def find_products(folder: Path) -> list[Path]:
    """The tables of products in any precision in `folder`, sorted."""
    return sorted(folder.glob(PRODUCTS))


def read_matmul(path: Path) -> list[ProductTimes]:
    """The rows of a `matmul-` table. ValueError names the line that does not fit."""
    found = []
    for line, cells in _lines(path):
        try:
            rows, depth, cols = (int(cell) for cell in cells[:3])
            found.append(ProductTimes(rows, depth, cols, float(cells[3].removesuffix("ms")) * 1e-3))
        except (IndexError, ValueError):
            raise ValueError(
                f"{path}, line {line}: needs rows, depth, cols and a time as in 0.19ms"
            ) from None
    return found


def read_elements(path: Path, kind: Kind) -> list[ElementTimes]:
    """The rows of a table of an elementwise operator. ValueError names the line that does not fit."""
    found = []
    for line, cells in _lines(path):
        try:
            rows, cols = (1, int(cells[0])) if len(cells) == 2 else (int(cells[0]), int(cells[1]))
            found.append(ElementTimes(kind, rows, cols, rows * cols / (float(cells[-1]) * 1e9)))
        except (IndexError, ValueError, ZeroDivisionError):
            raise ValueError(f"{path}, line {line}: needs sizes and 10^9 elements per second") from None
    return found


def read_products(path: Path) -> list[ProductTimes]:
    """The rows of a `products-` table. ValueError names the column or line that does not fit."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            given = list(reader.fieldnames or ())
            for name in COLUMNS:
                if name not in given:
                    raise ValueError(f"{path} has no column {name!r}; {nearest(name, given)}")
            found = []
            for line, row in enumerate(reader, start=2):
                try:
                    rows, depth, cols = (int(row[name]) for name in COLUMNS[:3])
                    seconds = float(row["seconds"])
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {line}: {error}") from None
                if min(rows, depth, cols) < 1 or seconds <= 0:
                    raise ValueError(f"{path}, line {line}: sizes and seconds must be positive")
                found.append(
                    ProductTimes(rows, depth, cols, seconds, row["precision"], row["format"], row["software"])
                )
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return found


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    split = [(n, [cell.strip() for cell in line.split(",")]) for n, line in enumerate(text.splitlines(), 1)]
    return [(n, cells) for n, cells in split if any(cells)]
