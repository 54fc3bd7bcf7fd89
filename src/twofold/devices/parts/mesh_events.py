"""A mesh word by word, with numbers: slow, and simple enough to be believed. The closed forms are tested
against it, and the products against numpy.

Every word takes each link at the earliest cycle at which it is there and the link is free. A core's software
takes one word per cycle off the network: it adds its own to it and passes it on, or stores it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from twofold.devices.parts.mesh import Mesh, Reduction, Shifting, ring, tree

Core = tuple[int, int]
Values = npt.NDArray[np.float64]
Blocks = dict[Core, Values]


@dataclass(slots=True)
class MeshSimulator:
    """Links and cores of `mesh`, with the cycles at which each is free again. element_bytes: of a number."""

    mesh: Mesh
    element_bytes: int = 2
    _links: dict[tuple[Core, Core], int] = field(default_factory=dict)
    _cores: dict[Core, int] = field(default_factory=dict)

    def words(self, values: Values) -> int:
        """Words of `values`."""
        return self.mesh.words(values.size * self.element_bytes)

    def send(self, path: Sequence[Core], leave: Sequence[int]) -> list[int]:
        """The cycles at which words that leave the first core of `path` at `leave` are at the last one, each
        core on the way forwarding them by rules set before."""
        times = list(leave)
        for link in pairwise(path):
            free = self._links.get(link, 0)
            for i, ready in enumerate(times):
                free = max(free, ready) + 1
                times[i] = free - 1 + self.mesh.hop
            self._links[link] = free
        return times

    def route(self, core: Core, arrive: Sequence[int]) -> list[int]:
        """The cycles at which `core` has taken words off the network, and may put them on again."""
        free = self._cores.get(core, 0)
        times = []
        for when in arrive:
            free = max(free, when + self.mesh.route) + 1
            times.append(free - 1)
        self._cores[core] = free
        return times

    def occupy(self, core: Core, until: int) -> int:
        """Keep the software of `core` busy with other things; returns the cycle at which it is free."""
        self._cores[core] = max(self._cores.get(core, 0), until)
        return self._cores[core]


def path_between(one: Core, other: Core) -> list[Core]:
    """The cores from one to the other, both included, along a row, then along a column."""
    (y, x), (to_y, to_x) = one, other
    xs = range(x, to_x, 1 if to_x > x else -1)
    ys = range(y, to_y, 1 if to_y > y else -1)
    return [*((y, each) for each in xs), *((each, to_x) for each in ys), other]


# --- sums along a line ---


def all_reduce(
    sim: MeshSimulator, line: Sequence[Core], vectors: Blocks, how: Reduction, phases: int = 2
) -> tuple[Blocks, int]:
    """(the sum at every core of `line`, cycles) of the vectors at its cores, by `Mesh.all_reduce`'s ways."""
    if how == "ring":
        return _ring_reduce(sim, line, vectors)
    sums = {core: vectors[core].copy() for core in line}
    words = sim.words(vectors[line[0]])
    if how == "pipeline":
        end = _toward(sim, [*reversed(line)], sums, words, 0)
        root, now = line[0], end
    else:
        root, now = _k_tree(sim, line, sums, words, phases)
    middle = line.index(root)
    sides = [[*reversed(line[: middle + 1])], [*line[middle:]]]
    done = now
    for side in sorted(sides, key=len, reverse=True):
        if len(side) > 1:
            done = max(done, _spread(sim, side, words, now))
            now += words
    total = sums[root]
    return {core: total.copy() for core in line}, done


def _toward(sim: MeshSimulator, chain: Sequence[Core], sums: Blocks, words: int, start: int) -> int:
    """Sum along `chain` into its last core; returns the cycle at which that has the last word."""
    times = list(range(start, start + words))
    for one, other in pairwise(chain):
        times = sim.route(other, sim.send(path_between(one, other), times))
        sums[other] = sums[other] + sums[one]
    return times[-1] + 1


def _spread(sim: MeshSimulator, side: Sequence[Core], words: int, start: int) -> int:
    """Send `words` from the first core of `side` to all others, which copy what passes; the cycle of the
    last word."""
    times = sim.send(list(side), range(start, start + words))
    return times[-1] + sim.mesh.route + 1


def _k_tree(
    sim: MeshSimulator, line: Sequence[Core], sums: Blocks, words: int, phases: int
) -> tuple[Core, int]:
    """Sum in groups, then their roots in groups, and so on; returns the last root and its cycle."""
    members, now = list(line), 0
    for size, _ in tree(len(line), phases):
        roots, ends = [], [now]
        for begin in range(0, len(members), size):
            group = members[begin : begin + size]
            middle = min(size // 2, len(group) - 1)
            sides = sorted((group[: middle + 1], [*reversed(group[middle:])]), key=len)
            ends += [_toward(sim, side, sums, words, now) for side in sides if len(side) > 1]
            roots.append(group[middle])
        members, now = roots, max(ends)
    return members[0], now


def _ring_reduce(sim: MeshSimulator, line: Sequence[Core], vectors: Blocks) -> tuple[Blocks, int]:
    """Pieces of the vectors around a ring of two-hop neighbours: summed on the first way, copied on the
    second."""
    n = len(line)
    around = [line[i] for i in ring(n, "interleaved")]
    pieces = {core: np.array_split(vectors[core], n) for core in around}
    ready = dict.fromkeys(around, 0)
    for step in range(2 * (n - 1)):
        sent = []
        for i, core in enumerate(around):
            to, which = around[(i + 1) % n], (i - step) % n
            piece = pieces[core][which]
            words = max(1, sim.words(piece))
            leave = range(ready[core], ready[core] + words)
            times = sim.route(to, sim.send(path_between(core, to), leave))
            sent.append((to, which, piece, times[-1] + 1))
        for to, which, piece, when in sent:
            summing = step < n - 1
            pieces[to][which] = pieces[to][which] + piece if summing else piece
            ready[to] = max(ready[to], when)
    return {core: np.concatenate(pieces[core]) for core in line}, max(ready.values())


# --- products ---


def mesh_gemv(
    sim: MeshSimulator, x: Values, matrix: Values, cores: int, macs: int, how: Reduction = "k-tree"
) -> tuple[Values, int]:
    """(x B, cycles) of x [k] and B [k, n] on cores x cores cores that multiply `macs` numbers a cycle: rows
    of B along the columns of the mesh, where products are summed."""
    tiles = [np.array_split(rows, cores, axis=1) for rows in np.array_split(matrix, cores)]
    parts = np.array_split(x, cores)
    result, ends = [], []
    for column in range(cores):
        line = [(row, column) for row in range(cores)]
        partial = {core: parts[core[0]] @ tiles[core[0]][column] for core in line}
        compute = max(-(-tiles[row][column].size // macs) for row in range(cores))
        sums, cycles = all_reduce(sim, line, partial, how)
        result.append(sums[line[0]])
        ends.append(compute + cycles)
    return np.concatenate(result), max(ends)


def mesh_gemm(
    sim: MeshSimulator,
    a: Values,
    b: Values,
    cores: int,
    macs: int,
    how: Shifting = "interleaved",
    *,
    together: bool = True,
) -> tuple[Values, int]:
    """(A B, cycles) of A [m, k] and B [k, n] on cores x cores cores that multiply `macs` numbers a cycle.

    together: whether rounds end together; otherwise a core goes on as soon as its own tiles are there.
    """
    left = [np.array_split(rows, cores, axis=1) for rows in np.array_split(a, cores)]
    right = [np.array_split(rows, cores, axis=1) for rows in np.array_split(b, cores)]
    if how == "summa":
        return _summa(sim, left, right, macs)
    around = ring(cores, how)
    at = {core: place for place, core in enumerate(around)}  # place on the ring, of rows and columns alike
    grid = [(y, x) for y in range(cores) for x in range(cores)]
    # Unaligned, the core at places (p, q) holds tile (p, q) of A; of B it holds (p + q, q).
    lefts = {(y, x): left[at[y]][at[x]] for y, x in grid}
    rights = {(y, x): right[(at[y] + at[x]) % cores][at[x]] for y, x in grid}
    ready = dict.fromkeys(grid, 0)
    for step in range(1, cores // 2 + 1):  # a row at place p is turned p steps, or the rest the other way
        moving = [core for core in grid if min(at[core[0]], cores - at[core[0]]) >= step]
        forward = {core: -1 if at[core[0]] <= cores // 2 else 1 for core in moving}
        to = {(y, x): (y, around[(at[x] + forward[y, x]) % cores]) for y, x in moving}
        move_tiles(sim, lefts, ready, to)
        if together:
            ready = dict.fromkeys(grid, max(ready.values()))
    total = {core: np.zeros((left[at[core[0]]][0].shape[0], right[0][at[core[1]]].shape[1])) for core in grid}
    for _ in range(cores):
        computed = {}
        for core in grid:
            total[core] = total[core] + lefts[core] @ rights[core]
            computed[core] = ready[core] + -(-lefts[core].shape[0] * rights[core].size // macs)
        started = dict(ready)
        move_tiles(sim, lefts, ready, {(y, x): (y, around[at[x] - 1]) for y, x in grid}, started)
        move_tiles(sim, rights, ready, {(y, x): (around[at[y] - 1], x) for y, x in grid}, started)
        ready = {core: max(ready[core], computed[core]) for core in grid}
        if together:
            ready = dict.fromkeys(grid, max(ready.values()))
    inverse = [[total[around[p], around[q]] for q in range(cores)] for p in range(cores)]
    return np.block(inverse), max(ready.values())


def move_tiles(
    sim: MeshSimulator,
    tiles: Blocks,
    ready: dict[Core, int],
    to: dict[Core, Core],
    started: dict[Core, int] | None = None,
) -> None:
    """Send tiles to the cores in `to`, from the cycle at which each core is ready (`started`)."""
    begin = dict(ready) if started is None else started
    arrived = {}
    for core, other in to.items():
        words = sim.words(tiles[core])
        times = sim.send(path_between(core, other), range(begin[core], begin[core] + words))
        arrived[other] = tiles[core], times[-1] + sim.mesh.route + 1
    for other, (tile, when) in arrived.items():
        tiles[other] = tile
        ready[other] = max(ready[other], when)


def _summa(
    sim: MeshSimulator, left: list[list[Values]], right: list[list[Values]], macs: int
) -> tuple[Values, int]:
    """Round by round: the owners' tiles are routed from core to core while the round before computes."""
    cores = len(left)
    total = [
        [np.zeros((left[y][0].shape[0], right[0][x].shape[1])) for x in range(cores)] for y in range(cores)
    ]
    now = _broadcast(sim, left, right, 0, 0)
    for step in range(cores):
        compute = 0
        for y in range(cores):
            for x in range(cores):
                total[y][x] = total[y][x] + left[y][step] @ right[step][x]
                compute = max(compute, -(-left[y][step].shape[0] * right[step][x].size // macs))
        following = _broadcast(sim, left, right, step + 1, now) if step + 1 < cores else now
        now = max(now + compute, following)
    return np.block(total), now


def _broadcast(
    sim: MeshSimulator, left: list[list[Values]], right: list[list[Values]], step: int, start: int
) -> int:
    """Column `step` of A along the rows and row `step` of B along the columns; the cycle of the last word."""
    cores, end = len(left), start
    for i in range(cores):
        row, column = [(i, j) for j in range(cores)], [(j, i) for j in range(cores)]
        for tile, line in ((left[i][step], row), (right[step][i], column)):
            for side in (line[step::-1], line[step:]):
                times = list(range(start, start + sim.words(tile)))
                for link in pairwise(side):
                    times = [when + sim.mesh.route for when in sim.send(link, times)]
                end = max(end, times[-1] + 1)
    return end
