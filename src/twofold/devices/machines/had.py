"""HAD: attention over signs in hardware, where an exclusive or and a count of ones take the multipliers'
place.

Source: Horton et al., "Hamming Attention Distillation: Binarizing Keys and Queries for Efficient Long-Context
Transformers" (arXiv:2502.01770); the technique `had` emits its ops. A block compares a query's signs with
those of a key in every cycle, keeps a histogram of the distances from which the nearest `kept` of `context`
follow, and has as many multipliers as these need for their values: a share of `standard-attention`'s.

The paper's circuit could not be read beyond its abstract (others say that it compares in a content-addressed
memory); this one is digital, made of the same parts as its counterpart. Attention over keys that are numbers
runs on the array.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from twofold.devices.machines.fp16_array import Fp16Array
from twofold.devices.machines.standard_attention import (
    SCORE,
    AttentionFigures,
    StandardAttention,
)
from twofold.devices.machines.standard_attention import (
    SOURCES as STANDARD_SOURCES,
)
from twofold.devices.parts.pe import Circuit
from twofold.devices.parts.vector_unit import Arithmetic
from twofold.devices.parts.work import Work
from twofold.ops import Attention, CacheWrite
from twofold.ops.base import Precision
from twofold.ops.signs import HammingAttention, SignWrite

SOURCES = STANDARD_SOURCES | {"kept": "arXiv:2502.01770: 30 of 256 tokens of context"}


@dataclass(frozen=True, slots=True)
class HadFigures(AttentionFigures):
    """kept: entries of `context` whose values are added up."""

    kept: int = 30

    def __post_init__(self) -> None:
        AttentionFigures.__post_init__(self)
        if not 1 <= self.kept <= self.context:
            raise ValueError(f"had: kept must be 1 to context ({self.context}), not {self.kept}")


class Had(StandardAttention):
    """The modelled machine."""

    name = "had"
    title = "HAD: attention over signs by exclusive or and counting, beside an array of 16-bit floats"
    source = "HAD, arXiv:2502.01770, counted from units"
    sources = SOURCES
    more = Fp16Array.more

    figures: HadFigures

    def __init__(self, figures: HadFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or HadFigures(node=45, rows=32, columns=28, lanes=28), tp=tp)

    # --- one block ---

    @property
    def share(self) -> float:
        """Of the entries that are kept."""
        return self.figures.kept / self.figures.context

    @property
    def value_lanes(self) -> int:
        """Multipliers for values: as many as keep up with a key in every cycle."""
        return ceil(self.figures.dim * self.share)

    @property
    def comparing(self) -> Circuit:
        """Signs of a query and a key to their distance, and into the histogram: one counter counts."""
        logic, f = self.logic, self.figures
        counter = logic.adder(f.context.bit_length()) + logic.register(f.context.bit_length())
        return logic.xor(f.dim) + logic.popcount(f.dim) + logic.register(2 * f.dim) + counter

    @property
    def choosing(self) -> Circuit:
        """A stored distance compared with the greatest that is kept."""
        return self.logic.adder(self.figures.dim.bit_length())

    @property
    def block_mm2(self) -> float:
        """Area of one block: a counter for each distance, a multiplier or two for the softmax of few."""
        f, logic = self.figures, self.logic
        counters = logic.register(f.context.bit_length() * f.dim).area
        softmax = (
            logic.float_multiplier("fp16") * ceil(SCORE.mul * self.share)
            + logic.float_adder("fp16") * ceil(SCORE.add * self.share)
        ).area
        memory = logic.sram_area(f.context * (f.dim // 8 + 1)) + logic.sram_area(2 * f.context * f.dim)
        units = self.comparing.area + self.choosing.area + self.value_lanes * self.multiply_add.area
        return units + counters + softmax + memory

    @property
    def compare_joules(self) -> float:
        """Of an entry: its signs read and compared, its distance stored, read and compared."""
        f, process = self.figures, self.logic.process
        signs = f.dim / 8 * process.sram_byte(f.context * max(1, f.dim // 8))
        distance = 2 * process.sram_byte(f.context)
        return self.comparing.joules + self.choosing.joules + signs + distance

    @property
    def value_joules(self) -> float:
        """Of an entry that is kept."""
        return self.figures.dim * self.multiply_add.joules + self.softmax.joules + self.read_joules

    @property
    def entry_joules(self) -> float:
        """Of an entry on average."""
        return self.compare_joules + self.share * self.value_joules

    # --- what an op takes ---

    def rates(self) -> dict[Precision, float]:
        """Of the array, or of the blocks' multipliers."""
        f = self.figures
        array, blocks = Fp16Array.rates(self), 2 * self.value_lanes * f.blocks * f.hertz
        return {precision: max(rate, blocks) for precision, rate in array.items()}

    def attention(self, op: Attention) -> Work:
        """Signs in the blocks, anything else on the array."""
        if not isinstance(op, HammingAttention):
            return Fp16Array.attention(self, op)
        self.check_precision(op)
        f, pieces = self.figures, self.pieces(op)
        compared, values = op.seen * op.heads * pieces, op.kept * op.heads * op.v_dim
        cycles = max(compared, values / self.value_lanes) / f.blocks
        joules = compared * self.compare_joules + op.kept * op.heads * pieces * self.value_joules
        blocks = Work.of("attention", cycles / f.hertz, joules)
        signs = 2 * op.totals.queries * op.heads * op.head_dim
        before = self.lanes.run(Arithmetic(op.map_flop // 2, op.map_flop // 2 + signs, 2))
        return before.then(self._cache_read(op).beside(blocks))

    def cache_write(self, op: CacheWrite) -> Work:
        """Signs are made by the lanes."""
        if not isinstance(op, SignWrite):
            return super().cache_write(op)
        mapped = self.lanes.run(Arithmetic(op.map_flop // 2, op.map_flop // 2 + op.pack_flop, 2))
        return mapped.then(self._written(op.cache_bytes))


MACHINE = Had
