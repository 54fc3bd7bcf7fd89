"""Where the tokens of a sequence lie in each phase of ALISA, and how many of them a step attends to:
counting, no tensors.

From the oldest to the newest, the tokens of a sequence are deleted (recomputed when needed), on the host, on
the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from twofold.ops.attention import Span
from twofold.techniques.attention.short import is_generated


class Chosen(NamedTuple):
    """How many of the tokens before a step it attends to: the newest (local) and others; and of both, how
    many must be fetched from the host and how many recomputed."""

    local: int
    others: int
    fetched: int
    recomputed: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.local + self.others


@dataclass(slots=True)
class Schedule:
    """Shared by the layers of a model. caching_ratio, p1, p2, local_steps: see `alisa.Alisa`; deleted: the
    oldest tokens of a sequence that phase III deletes.

    spread: how many of the globally dynamic tokens lie off the device, relative to how many would if they
    were spread evenly, where nothing is computed; far, even: both numbers, summed where they are computed.
    counters: over all layers that are run (on a modelled device, one layer of each kind), tokens in each
    layer; phase_1 … phase_3: generating steps of a sequence in each phase.
    """

    caching_ratio: float
    p1: int
    p2: int
    deleted: int
    local_steps: int
    spread: float = 1.0
    far: float = 0.0
    even: float = 0.0
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            (
                "tokens_attended",
                "tokens_skipped",
                "tokens_offloaded",
                "tokens_fetched",
                "tokens_deleted",
                "tokens_recomputed",
                "phase_1",
                "phase_2",
                "phase_3",
            ),
            0,
        )
    )

    def budget(self, entries: int) -> int:
        """k of the source's algorithm 1: the locally static tokens of a sequence of `entries`, and again as
        many globally dynamic ones."""
        return max(1, int(entries * self.caching_ratio / 2 + 0.5))

    def hosted(self, entries: int) -> int:
        """The oldest tokens of a sequence that do not lie on the device."""
        return max(0, entries - self.p1)

    def gone(self, entries: int) -> int:
        """The oldest tokens of a sequence that lie nowhere."""
        return self.deleted if entries >= self.p2 else 0

    def phase(self, entries: int) -> int:
        """1: all on the device; 2: the oldest on the host; 3: the very oldest deleted."""
        return 1 if entries <= self.p1 else 2 if entries < self.p2 else 3

    def deletes(self, span: Span) -> bool:
        """Whether a sequence enters phase III with `span`."""
        return span.keys - span.queries < self.p2 <= span.keys

    def split(self, span: Span) -> tuple[int, int]:
        """Locally static and globally dynamic tokens among those before `span`; all, where it is a
        prompt's."""
        before = span.keys - span.queries
        if not is_generated(span):
            return before, 0
        k = self.budget(span.keys)
        local = min(k, before)
        return local, min(k, before - local)

    def even_far(self, span: Span) -> float:
        """How many globally dynamic tokens of `span` would lie off the device if they were spread evenly."""
        before = span.keys - span.queries
        local, others = self.split(span)
        candidates = before - local
        return others * min(self.hosted(before), candidates) / candidates if candidates else 0.0

    def expected(self, span: Span) -> Chosen:
        """What `span` attends to where nothing is computed."""
        before = span.keys - span.queries
        local, others = self.split(span)
        hosted, gone = self.hosted(before), self.gone(before)
        oldest_local = before - local
        candidates = min(hosted, oldest_local)
        far = min(others, candidates, round(self.spread * self.even_far(span)))
        again = round(far * min(gone, candidates) / candidates) if candidates else 0
        local_far = max(0, hosted - oldest_local)
        local_again = max(0, gone - oldest_local)
        return Chosen(local, others, far - again + local_far - local_again, again + local_again)

    def count(self, span: Span, chosen: Chosen) -> None:
        """Add what one layer did for `span` to the counters."""
        before, counters = span.keys - span.queries, self.counters
        counters["tokens_fetched"] += chosen.fetched
        counters["tokens_recomputed"] += chosen.recomputed
        counters["tokens_offloaded"] += self.hosted(span.keys) - self.hosted(before)
        if is_generated(span):
            counters["tokens_attended"] += chosen.total
            counters["tokens_skipped"] += before - chosen.total
            counters[f"phase_{self.phase(before)}"] += 1
