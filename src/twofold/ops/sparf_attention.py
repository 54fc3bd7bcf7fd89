"""Attention of few queries to the keys that a comparison in a few elements finds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from twofold.ops.attention import Attention, SpanTotals
from twofold.ops.base import Cost

NO_SPANS = SpanTotals(0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class SparfAttention(Attention):
    """Some queries are compared with all keys in `rank` elements and attend to the keys that are best there;
    the others attend to everything.

    totals: of all keys that are visible; few: of the queries that choose, each as a sequence of its own;
    whole: of the spans that attend to everything; kept: keys that `few` attend to; groups: groups of `group`
    neighbouring entries of which one is kept at least, per KV head; cache_bytes: of what is read.
    """

    few: SpanTotals = NO_SPANS
    whole: SpanTotals = NO_SPANS
    rank: int = 1
    kept: int = 0
    groups: int = 0
    group: int = 16

    def cost(self) -> Cost:
        """2 FLOP per compared element, and those of attention to what is kept; about 6 operations per
        comparison for its softmax and the choice, 5 per kept key."""
        full, width = self.whole.pairs + self.kept, self.head_dim + self.v_dim
        return replace(
            Attention.cost(self),
            flop=2.0 * self.heads * (full * width + self.few.pairs * self.rank),
            vector_flop=(5.0 * full + 6.0 * self.few.pairs) * self.heads + self.widen_flop,
        )
