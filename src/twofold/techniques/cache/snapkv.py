"""SnapKV: of a prompt, the entries that its last tokens attend to stay, for each KV head.

Source: "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv:2404.14469; parameters and
defaults as in the authors' repository, FasterDecoding/SnapKV: the attention of the last `window_size` tokens
of the prompt is summed, averaged over `kernel_size` neighbours, and the highest `max_capacity_prompt` minus
`window_size` entries stay beside the window's own; all generated entries stay too. Differs: query heads that
share a KV head choose together, by the sum of their attention, where the source repeats keys and values for
each of them; in a prompt of several chunks, the window's attention is summed chunk by chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from twofold.engine.retention import counters
from twofold.models.retaining import Retainer
from twofold.ops.compaction import Observed
from twofold.techniques.base import Info
from twofold.techniques.cache.dropping import Dropping, check_counts, dropping_info

if TYPE_CHECKING:
    from twofold.models.cache import CacheLayer
    from twofold.ops.compaction import Compaction

_NAME = "snapkv"


@dataclass(frozen=True)
class SnapKv(Dropping):
    """window_size: last tokens of a prompt that observe it; max_capacity_prompt: entries that stay of a
    prompt, the window's own included; kernel_size: neighbours over which attention is averaged, odd."""

    window_size: int = 32
    max_capacity_prompt: int = 2048
    kernel_size: int = 5

    info: ClassVar[Info] = dropping_info(
        name=_NAME,
        title="SnapKV: LLM Knows What You are Looking for Before Generation",
        source="arXiv:2404.14469",
        summary="keeps those entries of a prompt that its last tokens attend to most",
    )

    def __post_init__(self) -> None:
        check_counts(_NAME, window_size=self.window_size, kernel_size=self.kernel_size)
        if self.max_capacity_prompt <= self.window_size:
            raise ValueError(
                f"technique {_NAME}: max_capacity_prompt must be more than window_size ({self.window_size}), "
                f"not {self.max_capacity_prompt}"
            )
        if self.kernel_size % 2 == 0:
            given = self.kernel_size
            raise ValueError(f"technique {_NAME}: kernel_size must be odd, not {given}; use {given + 1}")

    def retention(self) -> PromptRetention:
        """A PromptRetention with counters of its own."""
        return PromptRetention(self)


class PromptRetention:
    """Cuts a prompt once, when all of it is computed; what is generated stays."""

    def __init__(self, technique: SnapKv) -> None:
        self.technique = technique
        self.counters = counters()

    def kept(self, slots: int, computed: int, context: int) -> int:
        """Everything, less the prompt's surplus once the prompt is computed."""
        surplus = max(0, context - self.technique.max_capacity_prompt)
        return min(slots, computed - surplus) if computed >= context else slots

    def most(self, tokens: int, context: int) -> int:
        """The whole prompt, or later what stays of it and what was generated."""
        return min(tokens, max(context, tokens - max(0, context - self.technique.max_capacity_prompt)))

    def observed(self, start: int, queries: int, context: int) -> Observed | None:
        """The tokens of the window, in prompts that are too long."""
        window = context - self.technique.window_size
        if context <= self.technique.max_capacity_prompt or start >= context or start + queries <= window:
            return None
        return Observed(range(max(0, window - start), queries), start <= window)

    def retainer(self, layer: int) -> WindowRetainer:
        """The same for every layer."""
        del layer
        return WindowRetainer(self.technique)


class WindowRetainer(Retainer):
    """Keeps the entries with the highest scores, averaged over their neighbours, and the last ones."""

    scores = True

    def __init__(self, technique: SnapKv) -> None:
        self.window, self.kernel_size = technique.window_size, technique.kernel_size

    def choice_flop(self, cache: CacheLayer, compaction: Compaction) -> int:
        """An addition per score and neighbour, a comparison per score, and a sort of what is kept."""
        per_head = compaction.entries * (self.kernel_size + 1)
        per_head += round(compaction.kept * math.log2(max(2, compaction.kept)))
        return per_head * cache.heads.kv_heads

    def keep(self, cache: CacheLayer, slots: torch.Tensor, compaction: Compaction) -> torch.Tensor:
        """Numbers [kept, K]. Neighbours beyond either end count as zero."""
        entries, kept = compaction.entries, compaction.kept
        recent = self.window + compaction.computed - compaction.context
        scores = cache.tensors["scores"].flatten(0, 1).index_select(0, slots[: entries - recent]).T
        pooled = F.avg_pool1d(scores[None], self.kernel_size, stride=1, padding=self.kernel_size // 2)[0]
        return with_recent(pooled, kept - recent, entries, kept)


def with_recent(scores: torch.Tensor, best: int, entries: int, kept: int) -> torch.Tensor:
    """The numbers [kept, K] of the `best` entries of highest score [K, n], in order, and of the last kept -
    best of all `entries`."""
    chosen = scores.topk(best).indices.sort().values.T
    last = torch.arange(entries - (kept - best), entries, device=scores.device)
    return torch.cat((chosen, last[:, None].expand(-1, scores.shape[0])))
