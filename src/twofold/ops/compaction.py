"""Keeping some entries of a sequence's cache: scoring entries by the attention they get, and closing the gaps
that the others leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from twofold.ops.attention import Attention
from twofold.ops.base import DEVICE, Cost, Op, Traffic

SCORE_BYTES = 4
"""A score is a float32."""


class Observed(NamedTuple):
    """The new tokens of a sequence whose attention counts for the scores of its entries. begins: no earlier
    ones did, so that all scores start at zero."""

    tokens: range
    begins: bool


class Compaction(NamedTuple):
    """A sequence loses entries: of the first `entries` in the blocks `table`, `kept` stay, in its first
    slots. computed: its tokens so far, the first `context` of which are its context (prompt)."""

    table: Sequence[int]
    entries: int
    kept: int
    computed: int
    context: int


@dataclass(frozen=True, slots=True)
class KeyScores(Attention):
    """Add to the score of every entry of one layer, for each KV head, the attention that it gets from some of
    a step's queries, summed over those and over the heads of the group.

    The attention op computes the same weights and keeps none of them, so that they are computed again.
    totals: of the observed queries and what they see; v_dim: 0, since no values are read; fresh: entries
    whose scores start at zero.
    """

    kind: ClassVar[str] = "key-scores"
    fresh: int = 0

    def cost(self) -> Cost:
        """2 FLOP per pair, head and dimension; 5 per weight for the softmax and 1 for the sum."""
        t, scores = self.totals, SCORE_BYTES * self.kv_heads
        return Cost(
            flop=2.0 * t.pairs * self.heads * self.head_dim,
            vector_flop=6.0 * t.pairs * self.heads + self.widen_flop,
            precision=self.compute,
            traffic=(
                Traffic("cache", self.cache_bytes, 0, self.space),
                Traffic("cache", scores * t.keys, scores * (t.keys + self.fresh), self.space),
                Traffic("activations", t.queries * self.heads * self.head_dim * self.act_bytes),
            ),
        )


@dataclass(frozen=True, slots=True)
class Compact(Op):
    """Choose which entries of one layer stay, and move them together.

    entries: of all sequences, before; read, written: entries that are, at most: in a move no more than leave
    and no more than stay; entry_bytes: of one entry, with its score; score_bytes: of an entry's score that
    the choice reads; choice_flop: elementwise operations to choose.
    """

    kind: ClassVar[str] = "compact"
    entries: int
    read: int
    written: int
    entry_bytes: int
    score_bytes: int
    choice_flop: int
    space: str = DEVICE

    def cost(self) -> Cost:
        """Scores are read once."""
        read = self.read * self.entry_bytes + self.entries * self.score_bytes
        written = self.written * self.entry_bytes
        return Cost(
            vector_flop=float(self.choice_flop), traffic=(Traffic("cache", read, written, self.space),)
        )
