"""StreamingLLM: the first tokens, which draw attention whatever they say (attention sinks), and the most
recent ones stay.

Source: "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453; parameters as in the
authors' repository, mit-han-lab/streaming-llm, the sizes of the paper's 1024-entry cache. Differs: keys keep
the positions at which they were rotated, where the source rotates them anew by their place in the cache. That
is for texts longer than the model's positions, which the engine refuses; within them, distances stay what the
model was trained on. Entries go several at a time (`dropping.EVERY`), and those of a prompt after each of its
chunks, whose tokens see each other in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from twofold.models.retaining import Retainer
from twofold.techniques.base import Info
from twofold.techniques.cache.dropping import Budget, Dropping, check_counts, dropping_info

if TYPE_CHECKING:
    from twofold.models.cache import CacheLayer
    from twofold.ops.compaction import Compaction

_NAME = "streaming-llm"


@dataclass(frozen=True)
class StreamingLlm(Dropping):
    """start_size: first tokens that stay (attention sinks); recent_size: newest tokens that stay."""

    start_size: int = 4
    recent_size: int = 1020

    info: ClassVar[Info] = dropping_info(
        name=_NAME,
        title="Efficient Streaming Language Models with Attention Sinks",
        source="arXiv:2309.17453",
        summary="keeps the first few and the most recent cache entries and drops those in between",
    )

    def __post_init__(self) -> None:
        check_counts(_NAME, start_size=self.start_size, recent_size=self.recent_size)

    def retention(self) -> SinkRetention:
        """A SinkRetention with these sizes."""
        return SinkRetention(self.start_size, self.recent_size)


class SinkRetention(Budget):
    """Sequences keep start_size + recent_size entries."""

    def __init__(self, start_size: int, recent_size: int) -> None:
        super().__init__(start_size + recent_size)
        self.start_size = start_size

    def retainer(self, layer: int) -> SinkRetainer:
        """The same for every layer."""
        del layer
        return SinkRetainer(self.start_size)


class SinkRetainer(Retainer):
    """Keeps the first `start_size` entries and the last ones."""

    def __init__(self, start_size: int) -> None:
        self.start_size = start_size

    def keep(self, cache: CacheLayer, slots: torch.Tensor, compaction: Compaction) -> torch.Tensor:
        """Numbers [kept], the same for all KV heads."""
        numbers = torch.arange(compaction.kept, device=slots.device)
        numbers[self.start_size :] += compaction.entries - compaction.kept
        return numbers
