"""A systolic array cycle by cycle: slow, and simple enough to be believed. The formulas in `systolic` are
tested against it.

Every processing element has registers that its neighbours read a cycle later, and really multiplies: a tile
that came too early would spoil the result. What is short of a whole tile is padded with zeros, which take
their cycles but are not read from a buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twofold.devices.parts.systolic import SystolicArray

Matrix = NDArray[np.int64]
_NONE = -1


@dataclass(slots=True)
class Played:
    """What was played: C of every product [times, m, n], cycles from the first load to the last result, and
    elements that went between the array and its buffers."""

    result: Matrix
    cycles: int = 0
    read_a: int = 0
    read_b: int = 0
    sums_written: int = 0
    sums_read: int = 0


@dataclass(frozen=True, slots=True)
class _Tile:
    """left: what passes from the left [past, rows]; above: what is loaded from above [rows, columns] or
    passes from there [past, columns]; target: the part of the result; first: whether nothing was added to it
    yet."""

    left: Matrix
    above: Matrix
    target: Matrix
    first: bool

    @property
    def past(self) -> int:
        return len(self.left)

    def write(self, row: int, column: int, value: int, played: Played) -> None:
        """A sum to its buffer, where it is added to what earlier tiles left; padding goes nowhere."""
        if row < self.target.shape[0] and column < self.target.shape[1]:
            played.sums_written += 1
            played.sums_read += not self.first
            self.target[row, column] += value


def play(array: SystolicArray, a: Matrix, b: Matrix) -> Played:
    """C[times, m, n] = A[times, m, k] B[times, k, n] on one array by its dataflow, tile after tile."""
    assert array.arrays == 1, "arrays share tiles; each plays its own"
    if array.dataflow == "is":
        # Inputs stay: they are the weights of C^T = B^T A^T.
        turned = play(replace(array, dataflow="ws"), b.transpose(0, 2, 1), a.transpose(0, 2, 1))
        turned.result = turned.result.transpose(0, 2, 1)
        turned.read_a, turned.read_b = turned.read_b, turned.read_a
        return turned
    played = Played(np.zeros((a.shape[0], a.shape[1], b.shape[2]), np.int64))
    if array.dataflow == "ws":
        _play_weights(array, _weight_tiles(array, a, b, played.result), played)
    else:
        _play_outputs(array, _output_tiles(array, a, b, played.result), played)
    return played


def _weight_tiles(array: SystolicArray, a: Matrix, b: Matrix, result: Matrix) -> list[_Tile]:
    tiles = []
    for x, w, c in zip(a, b, result, strict=True):
        for n in range(0, w.shape[1], array.columns):
            across = slice(n, n + array.columns)
            for k in range(0, x.shape[1], array.rows):
                down = slice(k, k + array.rows)
                tiles.append(_Tile(x[:, down], w[down, across], c[:, across], k == 0))
    return tiles


def _output_tiles(array: SystolicArray, a: Matrix, b: Matrix, result: Matrix) -> list[_Tile]:
    tiles = []
    for x, w, c in zip(a, b, result, strict=True):
        for n in range(0, w.shape[1], array.columns):
            across = slice(n, n + array.columns)
            for m in range(0, x.shape[0], array.rows):
                down = slice(m, m + array.rows)
                tiles.append(_Tile(x[down].T, w[:, across], c[down, across], True))
    return tiles


def _play_weights(array: SystolicArray, tiles: list[_Tile], played: Played) -> None:
    """Weights stay, loaded from above; inputs pass from the left, sums go down and leave below.

    Weights of column c are loaded c cycles after those of column 0, into `waiting` registers where the array
    is double-buffered; the first input of a tile carries the sign to take them over.
    """
    rows, columns = shape = array.rows, array.columns
    x, sums, held, waiting = (np.zeros(shape, np.int64) for _ in range(4))
    tile_at, row_at = (np.full(shape, _NONE) for _ in range(2))  # of the input in each element
    loading = waiting if array.double_buffered else held
    loads, feeds = [0], list[int]()  # the cycles in which tiles start at the first element
    left, goal, total = 0, 0, columns * sum(tile.past for tile in tiles)
    while left < total:
        now = played.cycles
        fed = not feeds or now >= feeds[-1] + tiles[len(feeds) - 1].past
        if fed and len(feeds) < len(loads) and now >= loads[-1] + rows:
            goal += columns * tiles[len(feeds)].past
            feeds.append(now)
        # The next load begins as the waiting registers pass theirs on, or when the array is empty.
        if len(loads) == len(feeds) < len(tiles) and (array.double_buffered or left == goal):
            loads.append(now)
        for register in (x, tile_at, row_at):
            register[:, 1:] = register[:, :-1]
        sums[1:] = sums[:-1]
        x[:, 0], tile_at[:, 0], row_at[:, 0], sums[0] = 0, _NONE, _NONE, 0
        for j, start in enumerate(feeds):
            for r in range(rows):
                if 0 <= (step := now - start - r) < tiles[j].past:
                    tile_at[r, 0], row_at[r, 0] = j, step
                    if r < tiles[j].left.shape[1]:
                        x[r, 0] = tiles[j].left[step, r]
                        played.read_a += 1
        if array.double_buffered:
            held[row_at == 0] = waiting[row_at == 0]
        for j, start in enumerate(loads):
            for c in range(columns):
                if 0 <= (step := now - start - c) < rows:
                    r = rows - 1 - step  # the lowest row first
                    # Only rows that the new weights have reached move: those below still wait for the sign.
                    loading[1 : step + 1, c] = loading[:step, c]
                    loading[0, c] = 0
                    if r < tiles[j].above.shape[0] and c < tiles[j].above.shape[1]:
                        loading[0, c] = tiles[j].above[r, c]
                        played.read_b += 1
        sums += x * held
        for c in np.flatnonzero(tile_at[-1] != _NONE).tolist():
            tiles[tile_at[-1, c]].write(row_at[-1, c], c, sums[-1, c], played)
            left += 1
        played.cycles += 1


def _play_outputs(array: SystolicArray, tiles: list[_Tile], played: Played) -> None:
    """Sums stay; inputs pass from the left, weights from above. A finished sum moves to a register from which
    all sums of a column leave below, a row in a cycle; where the array is not double-buffered, the next tile
    waits until all have left."""
    rows, columns = shape = array.rows, array.columns
    x, w, sums, done = (np.zeros(shape, np.int64) for _ in range(4))
    tile_at, step_at = (np.full(shape, _NONE) for _ in range(2))  # of the input in each element
    done_of = np.full(shape, _NONE)  # the tile of a sum on its way out
    leaving = np.zeros(columns, np.int64)  # sums that each column still has to give away
    feeds = list[int]()
    left = 0
    while left < len(tiles) * rows * columns:
        now = played.cycles
        # The first element can give its next sum away when `rows` cycles have passed since its last.
        spaced = not feeds or now >= feeds[-1] + max(tiles[0].past, rows)
        empty = left == len(feeds) * rows * columns
        if len(feeds) < len(tiles) and (spaced if array.double_buffered else empty):
            feeds.append(now)
        for c in np.flatnonzero(leaving).tolist():
            tiles[done_of[-1, c]].write(leaving[c] - 1, c, done[-1, c], played)
            left += 1
            # Only rows that still hold sums of this tile move: those above may have new ones.
            top = rows - leaving[c]
            done[top + 1 :, c], done_of[top + 1 :, c] = done[top:-1, c], done_of[top:-1, c]
            done_of[top, c] = _NONE
            leaving[c] -= 1
        for register in (x, tile_at, step_at):
            register[:, 1:] = register[:, :-1]
        w[1:] = w[:-1]
        x[:, 0], tile_at[:, 0], step_at[:, 0], w[0] = 0, _NONE, _NONE, 0
        for j, start in enumerate(feeds):
            for r in range(rows):
                if 0 <= (step := now - start - r) < tiles[j].past:
                    tile_at[r, 0], step_at[r, 0] = j, step
                    if r < tiles[j].left.shape[1]:
                        x[r, 0] = tiles[j].left[step, r]
                        played.read_a += 1
            for c in range(tiles[j].above.shape[1]):
                if 0 <= (step := now - start - c) < tiles[j].past:
                    w[0, c] = tiles[j].above[step, c]
                    played.read_b += 1
        sums[step_at == 0] = 0
        sums += x * w
        for r, c in np.argwhere(step_at == tiles[0].past - 1).tolist():
            assert done_of[r, c] == _NONE, "a sum came before the last one had left"
            done[r, c], done_of[r, c] = sums[r, c], tile_at[r, c]
            if r == rows - 1:
                leaving[c] = rows
        played.cycles += 1
