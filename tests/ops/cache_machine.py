"""A machine with a cache of so many elements: programs load and store tiles of real matrices, and every
element that crosses is counted. What does not fit is an error, so a count is that of a program that can
really run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


class CacheMachine:
    """capacity: elements; moved: elements loaded and stored so far."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.held, self.moved = capacity, 0, 0

    def load(self, tile: Matrix) -> Matrix:
        """Bring a tile of memory into the cache."""
        self.moved += tile.size
        return self.make(tile.copy())

    def make(self, tile: Matrix) -> Matrix:
        """Keep a tile that was computed."""
        self.held += tile.size
        assert self.held <= self.capacity, f"{self.held} elements in a cache of {self.capacity}"
        return tile

    def drop(self, *tiles: Matrix) -> None:
        """Give the room of tiles back."""
        self.held -= sum(tile.size for tile in tiles)

    def store(self, tile: Matrix, where: Matrix) -> None:
        """Write a tile to memory and give its room back."""
        where[...] = tile
        self.moved += tile.size
        self.drop(tile)


def attention(q: Matrix, k: Matrix, v: Matrix) -> Matrix:
    """The whole at once, without any machine."""
    scores = q @ k.T
    p = np.exp(scores - scores.max(1, keepdims=True))
    return (p / p.sum(1, keepdims=True)) @ v


def flash_attention(m: CacheMachine, q: Matrix, k: Matrix, v: Matrix, columns: int, rows: int) -> Matrix:
    """Keys outside, queries inside; outputs and statistics go back and forth."""
    n, d = q.shape
    out, top, total = np.zeros((n, d)), np.full((n, 1), -np.inf), np.zeros((n, 1))
    for j in range(0, len(k), columns):
        kj, vj = m.load(k[j : j + columns]), m.load(v[j : j + columns])
        for i in range(0, n, rows):
            s = slice(i, i + rows)
            qi, oi, ti, li = m.load(q[s]), m.load(out[s]), m.load(top[s]), m.load(total[s])
            scores = m.make(qi @ kj.T)
            peak = np.maximum(ti, scores.max(1, keepdims=True))
            p = np.exp(scores - peak)
            scale = np.exp(ti - peak) * li
            both = scale + p.sum(1, keepdims=True)
            oi[...] = (scale * oi + p @ vj) / both
            m.drop(scores, qi)
            m.store(oi, out[s])
            ti[...], li[...] = peak, both
            m.store(ti, top[s])
            m.store(li, total[s])
        m.drop(kj, vj)
    return out


def flash_attention_2(m: CacheMachine, q: Matrix, k: Matrix, v: Matrix, columns: int, rows: int) -> Matrix:
    """Queries outside, keys inside; outputs stay until they are done."""
    n, d = q.shape
    out, logs = np.zeros((n, d)), np.zeros((n, 1))
    for i in range(0, n, rows):
        s = slice(i, i + rows)
        qi = m.load(q[s])
        oi, ti, li = (
            m.make(x) for x in (np.zeros_like(qi), np.full((len(qi), 1), -np.inf), np.zeros((len(qi), 1)))
        )
        for j in range(0, len(k), columns):
            kj, vj = m.load(k[j : j + columns]), m.load(v[j : j + columns])
            scores = m.make(qi @ kj.T)
            peak = np.maximum(ti, scores.max(1, keepdims=True))
            p, scale = np.exp(scores - peak), np.exp(ti - peak)
            oi[...], li[...], ti[...] = scale * oi + p @ vj, scale * li + p.sum(1, keepdims=True), peak
            m.drop(scores, kj, vj)
        m.store(oi / li, out[s])
        m.store(ti + np.log(li), logs[s])
        m.drop(qi, ti)
    assert m.held == 0
    return out


def two_products(m: CacheMachine, q: Matrix, k: Matrix, v: Matrix, tile: int) -> Matrix:
    """Scores by tiles into memory, statistics of their rows, outputs by tiles."""
    n, d = q.shape
    scores, top, total, out = np.zeros((n, len(k))), np.zeros((n, 1)), np.zeros((n, 1)), np.zeros((n, d))

    def cuts(length: int) -> list[slice]:
        return [slice(i, min(i + tile, length)) for i in range(0, length, tile)]

    for i in cuts(n):
        for j in cuts(len(k)):
            acc = m.make(np.zeros((i.stop - i.start, j.stop - j.start)))
            for w in cuts(d):
                a, b = m.load(q[i, w]), m.load(k[j, w])
                acc += a @ b.T
                m.drop(a, b)
            m.store(acc, scores[i, j])
    for i in range(n):
        best, mass = m.make(np.full((1, 1), -np.inf)), m.make(np.zeros((1, 1)))
        for j in range(len(k)):
            x = m.load(scores[i : i + 1, j : j + 1])
            peak = np.maximum(best, x)
            mass[...] = mass * np.exp(best - peak) + np.exp(x - peak)
            best[...] = peak
            m.drop(x)
        m.store(best, top[i : i + 1])
        m.store(mass, total[i : i + 1])
    for i in cuts(n):
        for w in cuts(d):
            acc = m.make(np.zeros((i.stop - i.start, w.stop - w.start)))
            for j in cuts(len(k)):
                p = m.load(scores[i, j])
                for r in range(len(p)):  # a row's statistics at a time, while the values are not here yet
                    row = i.start + r
                    a, b = m.load(top[row : row + 1]), m.load(total[row : row + 1])
                    p[r] = np.exp(p[r] - a[0]) / b[0]
                    m.drop(a, b)
                x = m.load(v[j, w])
                acc += p @ x
                m.drop(p, x)
            m.store(acc, out[i, w])
    assert m.held == 0
    return out
