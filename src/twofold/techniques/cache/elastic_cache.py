"""Elastic Cache: the most attended entries of a prompt become anchors, into which those around them are
merged; during generation, entries are dropped at a fixed point, so that the first and the most recent stay.

Source: "Efficient Inference of Vision Instruction-Following Models with Elastic Cache", arXiv:2407.18121;
parameters and their values as in the authors' repository, liuzuyan/ElasticCache. An entry's importance is the
attention that it gets from the whole prompt; every other entry is averaged into the nearest anchor. During
generation the cache grows by (1 - ratio) entries per token: the rest are dropped `distance` entries before
the end of what stayed of the prompt. Differs: it works on any text model; each KV head has anchors of
its own, where the source averages the attention of all heads of a layer (under tensor parallelism those are
on several devices); entries go several at a time in generation (`dropping.EVERY`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from twofold.engine.retention import counters
from twofold.models.retaining import Move, Retainer
from twofold.models.step import flat_slots
from twofold.ops.compaction import Observed
from twofold.techniques.base import Claim, Info
from twofold.techniques.cache.dropping import EVERY, Dropping, check_counts, dropping_info

if TYPE_CHECKING:
    from twofold.models.cache import CacheLayer
    from twofold.ops.compaction import Compaction

_NAME = "elastic-cache"


@dataclass(frozen=True)
class ElasticCache(Dropping):
    """ratio: share of entries that are merged or dropped; start_size: first entries that stay as they are;
    distance: where entries are dropped during generation: so many before the end of what stayed of the prompt
    (negative), or after its beginning (positive)."""

    ratio: float = 0.2
    start_size: int = 1
    distance: int = -25

    info: ClassVar[Info] = dropping_info(
        name=_NAME,
        title="Efficient Inference of Vision Instruction-Following Models with Elastic Cache",
        source="arXiv:2407.18121",
        summary="merges less important entries of a prompt into the important ones around them",
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "elastic-cache-speed",
            "generation speed over the full cache, up to",
            (1.779, 1.779),
            "x",
            "full cache",
            "LLaVA-1.5-13B, 900 tokens in and 512 out (the authors' eval_latency.py), a fifth of the cache",
            "one NVIDIA GPU (A100 80 GB here)",
            "arXiv:2407.18121 (up to 77.9 % actual speedup)",
            "generation_speed",
        ),
    )

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"technique {_NAME}: ratio must lie between 0 and 1, not {self.ratio}")
        check_counts(_NAME, start_size=self.start_size)

    def size_of(self, tokens: int) -> int:
        """Entries that stay of a sequence of `tokens`: always some anchor beside the first and the newest."""
        return max(self.start_size + 2, math.ceil(tokens * (1 - self.ratio)))

    def fixed_point(self, context: int) -> int:
        """Number of the entry at which others go in generation, behind a prompt of `context` tokens."""
        end = min(context, self.size_of(context))
        return max(0, min(end, self.distance if self.distance > 0 else end + self.distance))

    def retention(self) -> ElasticRetention:
        """An ElasticRetention with counters of its own."""
        return ElasticRetention(self)


class ElasticRetention:
    """Cuts a prompt when all of it is computed, and then keeps to the same share."""

    def __init__(self, technique: ElasticCache) -> None:
        self.technique = technique
        self.counters = counters()

    def kept(self, slots: int, computed: int, context: int) -> int:
        """The share of the tokens so far."""
        size = self.technique.size_of(computed)
        if computed == context:
            return min(slots, size)
        return size if computed > context and slots >= size + EVERY else slots

    def most(self, tokens: int, context: int) -> int:
        """The prompt before it is cut, or the share of all tokens and nearly EVERY more."""
        return min(tokens, max(context, self.technique.size_of(tokens) + EVERY - 1))

    def observed(self, start: int, queries: int, context: int) -> Observed | None:
        """The whole prompt."""
        return Observed(range(queries), start == 0) if start + queries <= context else None

    def retainer(self, layer: int) -> AnchorRetainer:
        """The same for every layer."""
        del layer
        return AnchorRetainer(self.technique)


class AnchorRetainer(Retainer):
    """Merges a prompt's entries into anchors; drops later ones at the fixed point."""

    scores = True

    def __init__(self, technique: ElasticCache) -> None:
        self.technique = technique

    def touched(self, compaction: Compaction) -> tuple[int, int]:
        """A merge reads everything and writes what stays."""
        if compaction.computed == compaction.context:
            return compaction.entries, compaction.kept
        return super().touched(compaction)

    def choice_flop(self, cache: CacheLayer, compaction: Compaction) -> int:
        """A comparison per score, a sort of what is kept, and an addition per element that is merged."""
        if compaction.computed > compaction.context:
            return 0
        per_head = compaction.entries + round(compaction.kept * math.log2(max(2, compaction.kept)))
        return per_head * cache.heads.kv_heads + compaction.entries * cache.heads.stored_width

    def keep(self, cache: CacheLayer, slots: torch.Tensor, compaction: Compaction) -> torch.Tensor:
        """In generation: all numbers [kept] but those from the fixed point on."""
        numbers = torch.arange(compaction.kept, device=slots.device)
        numbers[self.technique.fixed_point(compaction.context) :] += compaction.entries - compaction.kept
        return numbers

    def compact(self, cache: CacheLayer, compaction: Compaction, move: Move) -> None:
        """Merge where the prompt ends, otherwise move what stays together."""
        if compaction.computed > compaction.context:
            super().compact(cache, compaction, move)
            return
        scores = cache.tensors["scores"]
        slots = flat_slots(compaction.table, cache.block_size, compaction.entries, scores.device)
        first, last = self.technique.start_size, compaction.entries - 1
        importance = scores.flatten(0, 1).index_select(0, slots[first:last]).T
        anchors = importance.topk(compaction.kept - first - 1).indices.sort().values
        into = nearest(anchors, last - first)
        merged = [
            torch.cat((x[:first], merge(x[first:last], into, anchors.shape[1]), x[last:]))
            for x in cache.load(slots)
        ]
        cache.store(slots[: compaction.kept], merged[0], merged[1])


def nearest(anchors: torch.Tensor, entries: int) -> torch.Tensor:
    """For each of `entries` places, which of the ascending places anchors [K, A] is the nearest, the earlier
    of two: [K, entries]."""
    places = torch.arange(entries, device=anchors.device).expand(len(anchors), -1).contiguous()
    after = torch.searchsorted(anchors, places).clamp(max=anchors.shape[1] - 1)
    before = (after - 1).clamp(min=0)
    is_nearer = places - anchors.gather(1, before) <= (anchors.gather(1, after) - places).abs()
    # The first anchor has none before it, and what lies behind the last has none after it.
    return torch.where(is_nearer & (anchors.gather(1, before) <= places), before, after)


def merge(x: torch.Tensor, into: torch.Tensor, anchors: int) -> torch.Tensor:
    """The means of those of x [N, K, D] that go to the same anchor, by into [K, N]: [anchors, K, D]."""
    index = into.T[:, :, None].expand_as(x)
    return x.new_zeros(anchors, *x.shape[1:]).scatter_reduce(0, index, x, "mean", include_self=False)
