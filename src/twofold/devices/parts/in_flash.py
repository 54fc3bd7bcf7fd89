"""Cores on flash dies that multiply the pages of a matrix by vectors, while what else the matrix has goes
over the channels' buses to a processor outside.

Source: the hardware-aware tiling and read slicing of Cambricon-LLM (arXiv:2409.15654, sections IV and V). In
a round every core multiplies one page: a tile of the matrix, whose columns all cores of a channel share, so
that a channel sends a piece of the vector once. Between those pieces and the results the bus carries slices
of other pages. Which part goes which way is chosen so that both end together; other than in the source, a
part is a whole number of rounds, and the last page's arithmetic and results are waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, sqrt
from typing import NamedTuple

from twofold.devices.parts.nand import Nand


@dataclass(frozen=True, slots=True)
class DieCore:
    """The core of a die. bytes_per_second: of stored weights, multiplied by one vector; watts: with its
    error correction and buffers."""

    bytes_per_second: float
    watts: float

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0 or self.watts < 0:
            raise ValueError(
                f"die core: bytes_per_second must be positive and watts not negative, not "
                f"{self.bytes_per_second}, {self.watts}"
            )


class Tile(NamedTuple):
    """Rows and columns of the matrix that one page holds."""

    rows: int
    columns: int


def tile_of(nand: Nand, bits: float) -> Tile:
    """The tile of weights of `bits` bits that sends least over a channel: as many inputs as results, in
    numbers that are powers of two."""
    elements = max(1, int(nand.shape.page_bytes * 8 / bits))
    columns = min(elements, 2 ** round(log2(sqrt(nand.shape.channel_dies * elements))))
    return Tile(elements // columns, columns)


class Split(NamedTuple):
    """A product shared out. rounds: of the cores; inside: pages that they multiply; outside: pages that go
    over the buses; seconds: until both are done; bus_bytes: of vectors, results and pages."""

    rounds: int
    inside: int
    outside: int
    seconds: float
    bus_bytes: float


@dataclass(frozen=True, slots=True)
class InFlash:
    """A flash memory with a core on each die. most_vectors: more of them go to the processor outside
    alone, as prompts do; shared: whether any pages go out where the cores take part."""

    nand: Nand
    core: DieCore
    most_vectors: int
    shared: bool = True

    @property
    def core_bandwidth(self) -> float:
        """Bytes per second of weights that all cores multiply by one vector."""
        s = self.nand.shape
        each = min(self.core.bytes_per_second, s.page_bytes / self.nand.timing.read)
        return s.all_dies * each

    def page_seconds(self, vectors: int) -> float:
        """A core's, for one page and so many vectors."""
        return vectors * self.nand.shape.page_bytes / self.core.bytes_per_second

    def split(
        self, rows: int, columns: int, bits: float, vectors: int, wire: int, processor: float = 0.0
    ) -> Split:
        """A product of a matrix [rows, columns] of `bits` bits a weight with `vectors` vectors, whose
        elements and results take `wire` bytes on a bus. processor: seconds that the one outside takes for a
        product of the whole matrix."""
        s, t, page = self.nand.shape, self.nand.timing, self.nand.page_seconds
        tile = tile_of(self.nand, bits)
        pages = -(-rows // tile.rows) * -(-columns // tile.columns)
        inputs = vectors * tile.columns * wire / t.transfer
        results = vectors * tile.rows * s.channel_dies * wire / t.transfer
        arithmetic = self.page_seconds(vectors)
        # The next page is sensed once its vectors are there, while the last one is multiplied.
        first, drain = inputs + t.read, arithmetic + results
        period = max(first, arithmetic, inputs + results)

        def after(rounds: int) -> Split:
            cores = first + (rounds - 1) * period + drain if rounds else 0.0
            # The bus carries pages when it carries neither vectors nor results.
            vector_seconds = rounds * (inputs + results)
            carried = int((cores - t.read - vector_seconds) / page) * s.channels
            multiplied = int((cores - t.read) * pages / processor) if processor else pages
            fitting = min(carried, multiplied) if self.shared else 0
            outside = min(pages, max(fitting, pages - rounds * s.all_dies, 0))
            inside = pages - outside
            bus = -(-outside // s.channels) * page + vector_seconds
            other = max(bus, processor * outside / pages) + t.read if outside else 0.0
            # A page's results, and its share of the vectors that all cores of a channel are sent at once.
            vector_bytes = inside * vectors * wire * (tile.rows + tile.columns / s.channel_dies)
            moved = vector_bytes + outside * s.page_bytes
            return Split(rounds, inside, outside, max(cores, other), moved)

        most = -(-pages // s.all_dies)
        if vectors > self.most_vectors:
            return after(0)
        if not self.shared:
            return after(most)
        # Rounds until the cores and the other side are done at the same time, whichever bounds that side.
        late = t.read - first + period - drain
        chosen = {0, most}
        for free, each in ((period - inputs - results, page / s.channels), (period, processor / pages)):
            even = int((pages * each + late) / (free + s.all_dies * each)) if free or each else 0
            chosen.update(min(max(0, even + by), most) for by in (-1, 0, 1, 2))
        return min(map(after, sorted(chosen)), key=lambda split: split.seconds)
