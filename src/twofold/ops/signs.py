"""Attention over signs of keys and queries, and storing them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from twofold.ops.attention import Attention, CacheWrite
from twofold.ops.base import Cost


@dataclass(frozen=True, slots=True)
class SignWrite(CacheWrite):
    """Append entries whose keys are stored as signs. map_flop: of the products that turn keys before."""

    map_flop: int = 0

    def cost(self) -> Cost:
        """What writing counts, and the products."""
        plain = CacheWrite.cost(self)
        return Cost(
            flop=float(self.map_flop),
            vector_flop=plain.vector_flop,
            traffic=plain.traffic,
        )


@dataclass(frozen=True, slots=True)
class HammingAttention(Attention):
    """Attention over signs. seen: pairs of a query and an entry that are compared, kept: those that are
    attended to, both of one head; map_flop: of the products that turn queries before."""

    seen: int = 0
    kept: int = 0
    map_flop: int = 0

    def cost(self) -> Cost:
        """2 FLOP per kept pair, head and dimension of the values; elementwise, per compared pair and head an
        exclusive or, a count and an addition for each 32 bits and one step of a histogram, per kept pair
        about 5 for the softmax, per element of a query 2 to make it a bit."""
        words = math.ceil(self.head_dim / 32)
        pairs, kept = self.seen * self.heads, self.kept * self.heads
        queries = self.totals.queries * self.heads * self.head_dim
        return Cost(
            flop=2.0 * kept * self.v_dim + self.map_flop,
            vector_flop=pairs * (3.0 * words + 1.0) + 5.0 * kept + 2.0 * queries + self.widen_flop,
            precision=self.compute,
            traffic=Attention.cost(self).traffic,
        )
