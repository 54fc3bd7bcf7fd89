"""H2O: the entries that have received the most attention so far (heavy hitters) and the most recent ones
stay, for each KV head.

Source: "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
arXiv:2306.14048; parameters as in the authors' repository, FMInference/H2O, whose budgets are shares of the
prompt: the prompt is computed in full, then it is cut, and generation keeps to the same budget. Differs:
query heads that share a KV head choose together, by the sum of their attention; entries go several at a time
(`dropping.EVERY`); the attention of drafts does not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from twofold.models.retaining import Retainer
from twofold.ops.compaction import Observed
from twofold.techniques.base import Info
from twofold.techniques.cache.dropping import Dropping, PromptBudget, dropping_info
from twofold.techniques.cache.snapkv import with_recent

if TYPE_CHECKING:
    from twofold.models.cache import CacheLayer
    from twofold.ops.compaction import Compaction

_NAME = "h2o"


@dataclass(frozen=True)
class H2o(Dropping):
    """heavy_ratio, recent_ratio: entries that stay for the attention they got, and for being recent, as
    shares of the prompt's length; at least one of each."""

    heavy_ratio: float = 0.1
    recent_ratio: float = 0.1

    info: ClassVar[Info] = dropping_info(
        name=_NAME,
        title="H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
        source="arXiv:2306.14048",
        summary="keeps the entries that have received the most attention so far, and the most recent ones",
    )

    def __post_init__(self) -> None:
        for name in ("heavy_ratio", "recent_ratio"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"technique {_NAME}: {name} must lie between 0 and 1, not {getattr(self, name)}"
                )
        if (both := self.heavy_ratio + self.recent_ratio) > 1:
            raise ValueError(
                f"technique {_NAME}: heavy_ratio and recent_ratio must be at most 1 together, not {both:g}; "
                "lower one of them"
            )

    def heavy(self, context: int) -> int:
        """Heavy hitters that stay of a prompt of `context` tokens."""
        return max(1, int(self.heavy_ratio * context))

    def recent(self, context: int) -> int:
        """Recent entries that stay."""
        return max(1, int(self.recent_ratio * context))

    def retention(self) -> HeavyRetention:
        """A HeavyRetention with counters of its own."""
        return HeavyRetention(self)


class HeavyRetention(PromptBudget):
    """Watches every token."""

    def __init__(self, technique: H2o) -> None:
        super().__init__()
        self.technique = technique

    def size_of(self, context: int) -> int:
        """Heavy and recent entries."""
        return self.technique.heavy(context) + self.technique.recent(context)

    def observed(self, start: int, queries: int, context: int) -> Observed | None:
        """All tokens."""
        del context
        return Observed(range(queries), start == 0)

    def retainer(self, layer: int) -> HeavyRetainer:
        """The same for every layer."""
        del layer
        return HeavyRetainer(self.technique)


class HeavyRetainer(Retainer):
    """Keeps the recent entries and, of the others, those with the highest scores."""

    scores = True

    def __init__(self, technique: H2o) -> None:
        self.technique = technique

    def choice_flop(self, cache: CacheLayer, compaction: Compaction) -> int:
        """A comparison per score and a sort of what is kept."""
        per_head = compaction.entries + round(compaction.kept * math.log2(max(2, compaction.kept)))
        return per_head * cache.heads.kv_heads

    def keep(self, cache: CacheLayer, slots: torch.Tensor, compaction: Compaction) -> torch.Tensor:
        """Numbers [kept, K]."""
        heavy = min(compaction.kept - 1, self.technique.heavy(compaction.context))
        old = slots[: compaction.entries - (compaction.kept - heavy)]
        scores = cache.tensors["scores"].flatten(0, 1).index_select(0, old)
        return with_recent(scores.T, heavy, compaction.entries, compaction.kept)
