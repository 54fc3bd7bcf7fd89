"""Attention in hardware as it is usually built: blocks that multiply a query with a key, and a score with a
value, in every cycle.

The counterpart of `had`, made of the same parts. A block has `dim` multipliers and adders of fp16 for scores,
as many for values, a pipeline that takes a score to its exponential, and memories for the keys and values of
`context` entries; longer contexts and wider heads pass through in pieces. Everything but attention runs on
the array of `fp16-array`.
"""

from __future__ import annotations

from dataclasses import dataclass

from twofold.devices.array_figures import ArrayFigures
from twofold.devices.machines.fp16_array import SOURCES as ARRAY_SOURCES
from twofold.devices.machines.fp16_array import Fp16Array
from twofold.devices.parts.pe import Circuit
from twofold.devices.parts.vector_unit import ADD, EXP, MUL
from twofold.devices.parts.work import Work
from twofold.devices.pe_array import FLOATS
from twofold.ops import Attention
from twofold.ops.base import Precision

_ELEMENT_BYTES = 2
SCORE = MUL.then(ADD).then(ADD).then(EXP).then(ADD).then(MUL)
"""What the softmax takes for each score: scale, maximum, difference, exponential, sum, product."""

SOURCES = ARRAY_SOURCES | {
    "node": "assumption: the node of the published areas and energies; the shares saved hardly depend on it",
    "dim": "assumption: a head of 64 dimensions, as of BERT and DeiT, which arXiv:2502.01770 distils",
    "context": "arXiv:2502.01770: 256 tokens of context, of which 30 are kept",
    "blocks": "assumption: one for each head of BERT-base and DeiT-B",
}


@dataclass(frozen=True, slots=True)
class AttentionFigures(ArrayFigures):
    """dim: of the heads that a block takes at once; context: entries that it holds; blocks: how many."""

    dim: int = 64
    context: int = 256
    blocks: int = 12

    def __post_init__(self) -> None:
        # Named, since slots make a class of its own that super() does not know.
        ArrayFigures.__post_init__(self)
        if min(self.dim, self.context, self.blocks) < 1:
            raise ValueError(
                f"attention: dim, context and blocks must be positive, not {self.dim}, {self.context}, "
                f"{self.blocks}"
            )


class StandardAttention(Fp16Array):
    """The modelled machine. block_mm2, block_watts: area of one attention block, its memories included, and
    its power while it takes an entry in every cycle."""

    name = "standard-attention"
    title = "Blocks of multipliers for attention, beside an array of 16-bit floats"
    source = "the counterpart of HAD, arXiv:2502.01770, counted from units"
    sources = SOURCES
    more = (*Fp16Array.more, "blocks")

    figures: AttentionFigures

    def __init__(self, figures: AttentionFigures | None = None, *, tp: int = 1) -> None:
        super().__init__(figures or AttentionFigures(node=45, rows=32, columns=28, lanes=28), tp=tp)

    # --- one block ---

    @property
    def multiply_add(self) -> Circuit:
        """A product of fp16, added up."""
        return self.logic.float_multiplier("fp16") + self.logic.float_adder("fp16")

    @property
    def softmax(self) -> Circuit:
        """A pipeline that takes a score in every cycle."""
        logic = self.logic
        return logic.float_multiplier("fp16") * SCORE.mul + logic.float_adder("fp16") * SCORE.add

    @property
    def block_mm2(self) -> float:
        """See the class."""
        f = self.figures
        memory = self.logic.sram_area(2 * f.context * f.dim * _ELEMENT_BYTES)
        return 2 * f.dim * self.multiply_add.area + self.softmax.area + memory

    @property
    def entry_joules(self) -> float:
        """Of an entry: its key and value are read, multiplied and added up."""
        return 2 * self.figures.dim * self.multiply_add.joules + self.softmax.joules + 2 * self.read_joules

    @property
    def read_joules(self) -> float:
        """Of reading a key, or a value, from the block's memory."""
        nbytes = self.figures.dim * _ELEMENT_BYTES
        return nbytes * self.logic.process.sram_byte(self.figures.context * nbytes)

    @property
    def block_watts(self) -> float:
        """See the class."""
        return self.entry_joules * self.figures.hertz

    @property
    def area_mm2(self) -> float:
        """Of array, lanes, buffers and blocks."""
        return super().area_mm2 + self.figures.blocks * self.block_mm2

    # --- what an op takes ---

    def rates(self) -> dict[Precision, float]:
        """Of the array or the blocks, whichever multiply more."""
        f = self.figures
        return dict.fromkeys(FLOATS, max(super().rates()["bf16"], 4 * f.dim * f.blocks * f.hertz))

    def attention(self, op: Attention) -> Work:
        """Every block takes an entry of a head in a cycle, as often as the head has pieces."""
        self._check_attention(op)
        entries = op.totals.pairs * op.heads * self.pieces(op)
        seconds = -(-entries // self.figures.blocks) / self.figures.hertz
        blocks = Work.of("attention", seconds, entries * self.entry_joules)
        return self._cache_read(op).beside(blocks).beside(self._widened(op))

    def pieces(self, op: Attention) -> int:
        """In how many pieces of `dim` a head is taken."""
        return -(-max(op.head_dim, op.v_dim) // self.figures.dim)


MACHINE = StandardAttention
