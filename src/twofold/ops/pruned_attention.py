"""Attention over entries and heads that cascade pruning left, in parts: scores from the upper bits of keys,
scores from all bits where those do not do, and values of the likeliest (SpAtten, arXiv:2012.09852)."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.ops.attention import Attention
from twofold.ops.base import Cost, Traffic


@dataclass(frozen=True, slots=True)
class RankedAttention(Attention):
    """Attention over everything that also adds up what each entry is given."""


@dataclass(frozen=True, slots=True)
class PrunedAttention(Attention):
    """A part of attention over what was not pruned. scores: of a query, a head and an entry, that are
    computed; width: elements of each product; alive: heads that are not pruned."""

    scores: int = 0
    width: int = 0
    alive: int = 0

    def cost(self) -> Cost:
        """2 FLOP per score and element; about 5 per score for the softmax and what follows it."""
        moved = self.totals.queries * self.heads * self.width * self.act_bytes
        return Cost(
            flop=2.0 * self.scores * self.width,
            vector_flop=5.0 * self.scores + self.widen_flop,
            precision=self.compute,
            traffic=(Traffic("cache", self.cache_bytes, 0, self.space), Traffic("activations", moved)),
        )


class ScoreUpper(PrunedAttention):
    """Attention weights from the upper bits of keys."""

    __slots__ = ()


class ScoreWhole(PrunedAttention):
    """Attention weights from all bits of keys, where the upper ones left no entry that stands out."""

    __slots__ = ()


class WeighValues(PrunedAttention):
    """Values of the entries with the greatest weights, added up."""

    __slots__ = ()
