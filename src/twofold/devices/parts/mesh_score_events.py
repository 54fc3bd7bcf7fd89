"""Attention scores on a mesh, word by word: the product with a transposed matrix, whose results are summed
along rows while tiles move along columns (see `mesh_events`)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from twofold.devices.parts.mesh import ring
from twofold.devices.parts.mesh_events import Blocks, Core, MeshSimulator, Values, move_tiles


def mesh_scores(sim: MeshSimulator, q: Values, k: Values, cores: int, macs: int) -> tuple[Values, int]:
    """(Q K^T, cycles) of Q [m, d] and K [n, d] on cores x cores cores that multiply `macs` numbers a cycle.

    Tiles of K go around the columns; what the cores of a row make of one is summed into one of them, the
    next one on the ring in every round. A core goes on when it has passed its sum on and has its next tile.
    """
    around = ring(cores, "interleaved")
    at = {core: place for place, core in enumerate(around)}
    left = [np.array_split(rows, cores, axis=1) for rows in np.array_split(q, cores)]
    right = [np.array_split(rows, cores, axis=1) for rows in np.array_split(k, cores)]
    grid = [(y, x) for y in range(cores) for x in range(cores)]
    tiles = {(y, x): right[at[y]][x] for y, x in grid}
    ready = dict.fromkeys(grid, 0)
    scores: list[list[Values]] = [[np.empty(0)] * cores for _ in range(cores)]
    for step in range(cores):
        parts = {(y, x): left[y][x] @ tiles[y, x].T for y, x in grid}
        for y, x in grid:
            sim.occupy((y, x), ready[y, x] + -(-left[y][x].size * len(tiles[y, x]) // macs))
        arrived = dict(ready)
        move_tiles(sim, tiles, arrived, {(y, x): (around[at[y] - 1], x) for y, x in grid}, ready)
        for y in range(cores):
            which = (at[y] + step) % cores
            scores[y][which] = _sum_row(sim, [(y, x) for x in range(cores)], parts, around[which])
        ready = {core: sim.occupy(core, arrived[core]) for core in grid}
    return np.block(scores), max(ready.values())


def _sum_row(sim: MeshSimulator, row: list[Core], parts: Blocks, root: int) -> Values:
    """The sum of `parts` along `row`, from both ends into the core at `root`."""
    for side in (row[: root + 1], row[: root - 1 if root else None : -1]):
        if len(side) > 1:
            start = sim.occupy(side[0], 0)
            times = list(range(start, start + sim.words(parts[side[0]])))
            sim.occupy(side[0], times[-1] + 1)
            for one, other in pairwise(side):
                times = sim.route(other, sim.send((one, other), times))
                parts[other] = parts[other] + parts[one]
    return parts[row[root]]
