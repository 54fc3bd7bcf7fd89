"""How long a matrix product keeps the matrix units busy: output tiles in waves over the units."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil


def tiled_flop(
    rows: int,
    depth: int,
    cols: int,
    *,
    units: int,
    tiles: Sequence[tuple[int, int]],
    split_depth: int,
    batch: float = 1.0,
) -> float:
    """FLOP-equivalents that a [rows, depth] × [depth, cols] product occupies on `units` units together; >=
    its FLOP.

    Every unit computes whole output tiles, so edges are padded (tile quantisation) and the last wave may
    leave units idle (wave quantisation); where tiles are few, the depth is split over idle units, in parts of
    at least `split_depth`. The best of `tiles` counts, as a library's heuristics would choose. `batch` equal
    products run together (experts).
    """
    best = float("inf")
    for tile_rows, tile_cols in tiles:
        count = batch * ceil(rows / tile_rows) * ceil(cols / tile_cols)
        splits = max(1, int(units / count))
        part = max(depth / splits, min(depth, split_depth))
        waves = ceil(count / units - 1e-9)
        best = min(best, waves * units * 2.0 * tile_rows * tile_cols * part)
    return max(best, 2.0 * batch * rows * depth * cols)
