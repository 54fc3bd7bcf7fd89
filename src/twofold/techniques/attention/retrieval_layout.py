"""Where the entries of a cache with retrieval lie, and which steps search: counting, no tensors."""

from __future__ import annotations

from dataclasses import dataclass, field

from twofold.ops.attention import Span
from twofold.techniques.attention.short import SHORT


@dataclass(slots=True)
class Layout:
    """The static window keeps the first `initial` entries of a sequence and its `recent` newest; all others
    lie in host memory, linked in graphs. The layers of a model share it.

    top_k: keys that a query takes from the host. search_list, degree, query_neighbours, build_list,
    training_queries: see `retrievalattention.RetrievalAttention`. expected_share: of the keys on the host
    that a search looks at, where nothing is computed. keys_scanned: how many they did look at. counters: of
    all layers that are run (on a modelled device, of one layer of each kind).
    """

    initial: int
    recent: int
    top_k: int
    search_list: int
    degree: int
    query_neighbours: int
    build_list: int
    training_queries: int
    expected_share: float = 0.0
    keys_scanned: int = 0
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("entries_offloaded", "searches", "keys_searched", "keys_retrieved"), 0
        )
    )

    @property
    def width(self) -> int:
        """Neighbours of a key: those that queries give it, and as many that a search for it does."""
        return 2 * self.degree

    def hosted(self, entries: int) -> int:
        """How many of a sequence's entries lie on the host."""
        return max(0, entries - self.initial - self.recent)

    def searches(self, span: Span) -> bool:
        """Whether the queries of `span` search instead of attending to everything."""
        before = span.keys - span.queries
        return span.queries <= min(SHORT, self.recent) and self.hosted(before) > self.top_k

    def unlinked(self, span: Span) -> int:
        """Keys on the host that `span` finds outside the graphs, or puts there."""
        before, after = (self.hosted(n) for n in (span.keys - span.queries, span.keys))
        return after - before if before > self.top_k else after

    def teaches(self, span: Span) -> int:
        """Tokens of `span` whose queries link the keys on the host; 0 where it searches itself, or finds too
        few keys there."""
        if self.searches(span) or self.hosted(span.keys) <= self.top_k:
            return 0
        return min(span.queries, self.training_queries)

    def scanned(self, span: Span) -> int:
        """Keys that one search of `span` is expected to look at: the share that those before it looked at, or
        `expected_share` where there were none."""
        hosted, searched = self.hosted(span.keys), self.counters["keys_searched"]
        share = self.keys_scanned / searched if self.keys_scanned and searched else self.expected_share
        return min(hosted, max(self.top_k, round(share * hosted)))
