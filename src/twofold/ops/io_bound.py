"""The least that exact attention must move between a cache of M elements and the memory behind it, and what
published ways to compute it move.

Everything is in elements: `rows` queries and `keys` keys of width d, for one head (with grouped queries, for
one KV head and all queries that share it). The bounds hold up to a constant factor, which is taken as 1:

    rows·keys·d² / M    for M ≥ d²
    rows·keys·d / √M    for M < d²

(Saha, Ye, "The I/O complexity of attention, or how optimal is FlashAttention?", arXiv:2402.07443; the second
is that of a matrix product, Hong, Kung, STOC 1981), and never less than reading the inputs and writing the
output once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Attention of one head. causal: the last query sees all keys, each one before it a key less; rows ≤ keys
    then.

    shared: queries of one position that share the key (grouped heads); `rows` counts positions.
    """

    rows: int
    keys: int
    width: int
    causal: bool = False
    shared: int = 1

    def __post_init__(self) -> None:
        for name in ("rows", "keys", "width", "shared"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.causal and self.rows > self.keys:
            raise ValueError(f"causal attention of {self.rows} rows needs as many keys, not {self.keys}")

    @property
    def queries(self) -> int:
        """Query vectors."""
        return self.rows * self.shared

    @property
    def pairs(self) -> int:
        """Query-key pairs that are seen."""
        hidden = self.rows * (self.rows - 1) // 2 if self.causal else 0
        return (self.rows * self.keys - hidden) * self.shared

    @property
    def flop(self) -> int:
        """Matrix FLOP: two products of d per pair."""
        return 4 * self.pairs * self.width


def compulsory(shape: Shape) -> int:
    """Queries, keys and values read once, outputs written once."""
    return 2 * (shape.queries + shape.keys) * shape.width


def lower_bound(shape: Shape, cache: int) -> float:
    """Elements that any exact algorithm moves with a cache of `cache` elements, up to a constant factor."""
    _check(cache)
    d = shape.width
    least = shape.pairs * (d * d / cache if cache >= d * d else d / math.sqrt(cache))
    return max(least, float(compulsory(shape)))


def intensity_bound(width: int, cache: int) -> float:
    """The most FLOP per element moved that long attention can have: 4d over d²/M or d/√M."""
    _check(cache)
    return 4 * cache / width if cache >= width * width else 4 * math.sqrt(cache)


def flash_attention(shape: Shape, cache: int) -> int:
    """Elements that FlashAttention moves (Dao et al., arXiv:2205.14135, algorithm 1): blocks of ⌈M/4d⌉ keys
    outside, and for each of them all queries, with outputs and two statistics per row read and written
    again."""
    _check(cache, 4 * shape.width)
    d, block = shape.width, -(-cache // (4 * shape.width))
    moved = 2 * shape.keys * d
    for begin in range(0, shape.keys, block):
        rows = _rows_that_see(shape, begin)
        moved += rows * (3 * d + 4)
    return moved


def flash_attention_2(shape: Shape, cache: int, columns: int = 1) -> int:
    """Elements that FlashAttention-2 moves (Dao, arXiv:2307.08691): blocks of queries outside, whose outputs
    stay until they are done, and for each of them all keys and values in blocks of `columns`. The block of
    queries is as large as the cache lets it be beside its outputs, scores and statistics."""
    rows = query_block(shape.width, cache, columns)
    moved = 2 * shape.queries * shape.width + shape.queries  # queries, outputs, the logarithm of each sum
    for begin in range(0, shape.queries, rows):
        last = (min(begin + rows, shape.queries) - 1) // shape.shared
        seen = shape.keys - (shape.rows - 1 - last) if shape.causal else shape.keys
        moved += 2 * seen * shape.width
    return moved


def query_block(width: int, cache: int, columns: int = 1) -> int:
    """Rows of queries that fit with their outputs, two statistics and scores beside `columns` keys and
    values. ValueError where not one does."""
    left = cache - 2 * columns * width
    rows = left // (2 * width + columns + 2)
    if rows < 1:
        raise ValueError(
            f"a cache of {cache:,} elements holds no row beside {columns} keys of width {width}; "
            f"it takes {2 * columns * width + 2 * width + columns + 2:,}"
        )
    return rows


def two_products(shape: Shape, cache: int) -> int:
    """Elements that tiled products move which keep the scores in memory: the better way where M < d². Square
    tiles, three at a time; a pass over the scores for each row's maximum and sum between the two products."""
    _check(cache, 3)
    if shape.causal:
        raise ValueError("tiled products are counted without a causal mask")
    tile = math.isqrt(cache // 3)
    rows, keys, d = shape.queries, shape.keys, shape.width
    over_rows, over_keys, over_width = (-(-n // tile) for n in (rows, keys, d))
    scores = rows * d * over_keys + keys * d * over_rows + rows * keys
    statistics = rows * keys + 2 * rows
    outputs = rows * keys * over_width + keys * d * over_rows + 2 * rows * over_width * over_keys + rows * d
    return scores + statistics + outputs


def _rows_that_see(shape: Shape, key: int) -> int:
    """Query vectors that see `key`."""
    if not shape.causal:
        return shape.queries
    return shape.shared * min(shape.rows, shape.keys - key)


def _check(cache: int, least: int = 1) -> None:
    if cache < least:
        raise ValueError(f"a cache needs at least {least:,} elements here, not {cache:,}")
