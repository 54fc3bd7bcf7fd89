"""A mesh of cores, each linked to its four neighbours: cycles of messages, sums and products over it.

The device model is PLMR (He et al., "WaferLLM: large language model inference at wafer scale", OSDI 2025,
section 3): massive Parallelism; non-uniform Latency, `hop` cycles (alpha) to each neighbour and `route`
cycles (beta) at each core whose software takes words off the network and puts them on again; little local
Memory, which the machines count; and few Routing paths per core, which decide who has to route. Products:
section 5 and figure 6 there; sums: section 6 and figure 8. A vector streams in words, one per cycle and link,
and a core adds the words that pass it; what depends on it starts when its last word is there (Luczynski et
al., "Near-optimal wafer-scale reduce", HPDC 2024, whose terms are those of `Mesh.message`).

`mesh_events` plays all of this word by word, with numbers; the tests hold these formulas to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Reduction = Literal["k-tree", "pipeline", "ring"]
"""All-reduce along a line of cores: in groups of groups (MeshGEMV), from core to core (Cerebras' example), or
around a ring in pieces (pods of GPUs)."""

Shifting = Literal["interleaved", "cannon", "summa"]
"""How products of matrices bring tiles to cores: around rings of two-hop neighbours (MeshGEMM), around rings
of neighbours closed by one long way (Cannon), or by broadcasts of their owners (SUMMA)."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """hertz; hop: cycles of a word to a neighbour (alpha); route: cycles to leave the network for a core and
    to enter it again (beta); link_bytes: of a word, which a link carries in each cycle and direction; paths:
    routes that a core can hold."""

    hertz: float
    hop: int
    route: int
    link_bytes: int
    paths: int

    def __post_init__(self) -> None:
        if min(self.hop, self.route, self.link_bytes, self.paths) < 1 or not self.hertz > 0:
            raise ValueError(
                f"mesh: hertz, hop, route, link_bytes and paths must be positive, not {self.hertz}, "
                f"{self.hop}, {self.route}, {self.link_bytes}, {self.paths}"
            )

    def words(self, nbytes: int) -> int:
        """Words of a message."""
        return -(-nbytes // self.link_bytes)

    def message(self, hops: int, words: int, routed: int = 1) -> int:
        """Cycles until the last of `words` is stored `hops` away, taken off the network `routed` times (the
        receiver's own included)."""
        return hops * self.hop + routed * self.route + words

    # --- sums along a line of cores ---

    def all_reduce(self, cores: int, words: int, how: Reduction, phases: int = 2) -> int:
        """Cycles until each of `cores` in a line has the sum of all their vectors of `words`.

        phases: of a K-tree (K there); its roots hold K + 1 paths, and ValueError where the routers do not.
        """
        if cores == 1 or not words:
            return 0
        match how:
            case "pipeline":  # the far end to the root at the other, and the sum all the way back
                return self.message(cores - 1, words, cores - 1) + self.message(cores - 1, words)
            case "ring":  # pieces are summed on the way around, then sent around; steps of two hops
                return 2 * (cores - 1) * self.message(2, -(-words // cores))
            case "k-tree":
                if phases + 1 > self.paths:
                    raise ValueError(
                        f"mesh: a tree of {phases} phases needs {phases + 1} paths at its roots, and cores "
                        f"hold {self.paths}; use fewer phases"
                    )
                groups = list(tree(cores, phases))
                root = min(sum(n // 2 * apart for n, apart in groups), cores - 1)
                near, far = sorted((root, cores - 1 - root))
                back = self.message(far, words)
                if near:  # it sends one way, then the other
                    back = max(back, words + self.message(near, words))
                return sum(self._gather(n, apart, words) for n, apart in groups) + back

    def _gather(self, cores: int, apart: int, words: int) -> int:
        """Cycles until the middle one of `cores`, `apart` hops from each other, has the sum of all: it adds
        what comes from one side, then from the other."""
        if cores == 1:
            return 0
        longer, shorter = cores // 2, cores - 1 - cores // 2
        if not shorter:
            return self.message(apart, words)
        first = self.message(shorter * apart, words, shorter)
        return max(first, self.message(longer * apart, 0, longer)) + words

    # --- products of matrices on cores x cores cores ---

    def shift(self, cores: int, words: int, how: Shifting) -> int:
        """Cycles of the slowest message of a round: tiles of `words` to the next core of their ring, or
        (SUMMA) from their owner to the far end, routed by every core on the way since there are more senders
        than paths."""
        if how == "summa":
            return self.message(cores - 1, words, cores - 1)
        return self.message(min(2, cores - 1) if how == "interleaved" else cores - 1, words)

    def multiply(self, cores: int, compute: int, left: int, right: int, how: Shifting) -> int:
        """Cycles of C = A B, one tile of each on every core: in each of `cores` rounds every core computes
        for so many cycles, while tiles of A and B (`left` and `right` words) move along rows and columns.
        Tiles of A are aligned first; those of B, which are weights, are stored as they are needed.

        Rounds end together, as in the source's analysis: each takes as long as its slowest message. Where
        cores wait for their neighbours alone, a ring's long way is paid once in a whole turn, not in every
        round, and Cannon's rounds take no longer than interleaved ones (see the tests).
        """
        if cores == 1:
            return compute
        if how == "summa":
            return self._summa(cores, compute, max(left, right))
        align = (cores // 2) * self.shift(cores, left, how)
        return align + cores * max(compute, self.shift(cores, max(left, right), how))

    def multiply_transposed(
        self, cores: int, compute: int, right: int, result: int, line: int, how: Shifting
    ) -> int:
        """Cycles of C = A B^T without moving A: each round, B moves on along the columns, and tiles of C
        (`result` words) are summed over the `line` cores of a row that hold parts of one product: each core
        adds its own to what passes, the last one both sides."""
        if cores == 1:
            return compute
        summed = 2 * result if line > 1 else 0
        each = max(compute + summed, self.shift(cores, right, how))
        return cores * each + self.message(line - 1, 0, line - 1)

    def _summa(self, cores: int, compute: int, words: int) -> int:
        """Rounds in which the owners of a column of A and a row of B send them to all. The next round's tiles
        come while this one computes."""
        first = self.shift(cores, words, "summa")
        each, middle = self.hop + self.route, (cores - 1) // 2
        # The farthest core lies at the far end while owners come nearer to the middle, then at the near one.
        before = _sum_of_larger(cores - 1 - middle, cores - 2, each, words, compute)
        after = _sum_of_larger(middle + 1, cores - 1, each, words, compute)
        return first + before + after + compute


def tree(cores: int, phases: int) -> Iterator[tuple[int, int]]:
    """Of each phase of a K-tree over a line of `cores`: how many are summed in a group, and hops between
    them."""
    size = max(2, round(cores ** (1.0 / phases)))
    apart = 1
    for phase in range(phases):
        last = phase == phases - 1
        group = cores if last else min(size, cores)
        yield group, apart
        apart *= group
        cores = -(-cores // group)


def _sum_of_larger(low: int, high: int, slope: int, base: int, least: int) -> int:
    """The sum over d from `low` to `high` of the larger of `least` and `base` + d `slope`."""
    if high < low:
        return 0
    turn = min(max(-(-(least - base) // slope), low), high + 1)  # from here on the line is the larger
    terms = high + 1 - turn
    return (turn - low) * least + terms * base + slope * (turn + high) * terms // 2


def ring(cores: int, how: Shifting) -> list[int]:
    """The cores of a line in the order of the ring that tiles go around: neighbours with one long way back,
    or evens up and odds down, so that no way is longer than two hops (INTERLEAVE, algorithm 1)."""
    if how == "interleaved":
        return [*range(0, cores, 2), *range(cores - 1 - cores % 2, 0, -2)]
    return list(range(cores))
