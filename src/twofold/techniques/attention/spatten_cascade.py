"""What cascade pruning has left: how much by depth, and which entries and heads of each sequence of a
step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from math import ceil, inf
from typing import NamedTuple

import torch

from twofold.ops.attention import Span, SpanTotals, total_spans
from twofold.techniques.attention.short import is_generated

_TOKEN_STEPS = ((2 / 24, 1 / 7), (3 / 24, 2 / 7), (5 / 24, 4 / 7), (11 / 24, 1.0))
"""From which depth how much of all pruning of tokens is done."""

_HEAD_STEPS = ((16 / 24, 0.5), (22 / 24, 1.0))
"""The same of heads. Both are those of the source's workload for GPT-2 medium, which leaves 0.9, 0.8, 0.6
and 0.3 of its tokens and 13 and 10 of its 16 heads (github.com/mit-han-lab/spatten,
spatten_hardware/hardware/workloads)."""


@cache
def left(steps: tuple[tuple[float, float], ...], depth: float, last: float) -> float:
    """The share that is left at `depth` (0: the first layer), where `last` is left in the end."""
    done = max((share for at, share in steps if depth >= at - 1e-9), default=0.0)
    return 1.0 - (1.0 - last) * done


class Left(NamedTuple):
    """What generating sequences have left at some depth. counts: entries of each; values: entries whose
    values one query reads, for each; read: entries whose values any query of a group of heads reads, for
    each; weighed: pairs of a query and a value that it reads; totals: of the queries and entries left."""

    counts: list[int]
    values: list[int]
    read: list[int]
    weighed: int
    totals: SpanTotals


class Parts:
    """A step's sequences. prompts, others: numbers of those that read a prompt, and of those that generate;
    spans: of those that generate; left: what they have left, by the share that stays and heads in a group."""

    __slots__ = ("left", "others", "prompts", "spans", "step_spans")

    def __init__(self, spans: Sequence[Span]) -> None:
        self.step_spans = spans
        self.prompts: list[int] = []
        self.others: list[int] = []
        self.spans: list[Span] = []
        self.left: dict[tuple[float, int], Left] = {}
        for i, span in enumerate(spans):
            if is_generated(span):
                self.others.append(i)
                self.spans.append(span)
            else:
                self.prompts.append(i)


@dataclass(slots=True)
class Cascade:
    """Shared by the layers of a model. tokens, heads, values: shares that are left; threshold: below which no
    weight stands out; unsure: the share of (head, query) pairs in which none does, where nothing is computed.

    counters: of queries and their heads: entries whose keys were read and that were pruned, pairs that were
    scored, and of them those that needed all bits.
    """

    tokens: float
    heads: float
    values: float
    threshold: float
    unsure: float = 0.0
    num_layers: int = 0
    counters: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("entries_read", "entries_pruned", "rows_scored", "rows_refined"), 0
        )
    )
    _parts: Parts = field(default_factory=lambda: Parts(()))
    _entries: dict[int, torch.Tensor] = field(default_factory=dict)
    _heads: dict[int, torch.Tensor] = field(default_factory=dict)
    _given: dict[int, torch.Tensor] = field(default_factory=dict)

    def parts(self, spans: Sequence[Span]) -> Parts:
        """Of a step of `spans`, remembered for all of its layers."""
        if spans is not self._parts.step_spans:
            self._parts = Parts(spans)
        return self._parts

    def share(self, layer: int) -> float:
        """Of its entries that a sequence has left at that layer."""
        return left(_TOKEN_STEPS, layer / self.num_layers, self.tokens)

    def left(self, parts: Parts, layer: int, group: int) -> Left:
        """What those that generate have left at that layer, their new entries always among it; group: heads
        that share keys and values."""
        share = self.share(layer)
        found = parts.left.get((share, group))
        if found is None:
            spans = parts.spans
            # In comprehensions without calls: predictions spend their time here.
            queries = [q for q, _ in spans]
            counts = [n if (n := ceil(share * keys)) > q else q for q, keys in spans]
            values = [ceil(self.values * n) for n in counts]
            weighed = [q * m for q, m in zip(queries, values, strict=True)]
            read = [
                n if n < group * pairs else group * pairs for n, pairs in zip(counts, weighed, strict=True)
            ]
            totals = total_spans(zip(queries, counts, strict=True))
            found = parts.left[share, group] = Left(counts, values, read, sum(weighed), totals)
        return found

    def num_heads(self, layer: int, heads: int) -> int:
        """Heads that are left at that layer."""
        return max(1, ceil(left(_HEAD_STEPS, layer / self.num_layers, self.heads) * heads))

    # --- which: real devices only

    def begin(self) -> None:
        """A step begins: nothing is pruned."""
        self._entries.clear()
        self._heads.clear()
        self._given.clear()

    def entries(self, seq: int, count: int, importance: torch.Tensor, new: int) -> torch.Tensor:
        """The `count` entries of a sequence that are left, of those before: the most important,
        importance [N], and the newest `new`; int64, ascending."""
        visible = len(importance)
        before = self._entries.get(seq)
        if before is None:
            before = torch.arange(visible, device=importance.device)
        if count < len(before):
            scores = importance[before]
            scores[before >= visible - new] = inf
            before = before[scores.topk(count).indices.sort().values]
        self._entries[seq] = before
        return before

    def alive(self, seq: int, count: int, num_heads: int, where: torch.device) -> torch.Tensor:
        """The `count` heads of a sequence that are left, of those before; int64, ascending."""
        before = self._heads.get(seq)
        if before is None:
            before = torch.arange(num_heads, device=where)
        if count < len(before):
            before = before[self._given[seq][before].topk(count).indices.sort().values]
        self._heads[seq] = before
        return before

    def add_heads(self, seq: int, heads: torch.Tensor, magnitude: torch.Tensor) -> None:
        """The heads of a sequence had outputs of that magnitude [a] in one layer."""
        total = self._given.get(seq)
        if total is None:
            total = self._given[seq] = magnitude.new_zeros(int(heads.max()) + 1)
        total.index_add_(0, heads, magnitude)
