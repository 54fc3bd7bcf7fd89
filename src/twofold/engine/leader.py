"""Rank 0 of a tensor-parallel group: it has the other ranks do what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from twofold.devices.base import Device
from twofold.engine.filter import PromptFilter
from twofold.engine.followers import Followers
from twofold.engine.paging import Paging
from twofold.engine.rank import Rank
from twofold.engine.step_message import pack
from twofold.models.cache import CacheSize
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.compaction import Compaction


class Leader(Rank):
    """The rank that the engine holds. Every method is sent to `followers`, then done here."""

    def __init__(
        self,
        model: Transformer,
        device: Device,
        prompt_filter: PromptFilter | None,
        followers: Followers,
        paging: Paging | None = None,
    ) -> None:
        super().__init__(model, device, prompt_filter, paging)
        self.followers = followers

    def allocate(self, size: CacheSize, num_host_blocks: int) -> None:
        """Allocate the caches of all ranks."""
        with self.followers.doing("allocate", size, num_host_blocks):
            super().allocate(size, num_host_blocks)

    def forward(self, step: StepInput) -> Any:
        """Logits of `step`, computed by all ranks."""
        with self.followers.doing("forward", pack(step)):
            return super().forward(step)

    def select(self, step: StepInput) -> torch.Tensor | None:
        """What the prompt filter keeps; all ranks score."""
        with self.followers.doing("select", pack(step)):
            return super().select(step)

    def swap(self, pairs: Sequence[tuple[int, int]], out: bool) -> None:
        """Copy cache blocks on all ranks."""
        with self.followers.doing("swap", list(pairs), out):
            super().swap(pairs, out)

    def compact(self, compactions: Sequence[Compaction]) -> None:
        """Drop entries on all ranks."""
        with self.followers.doing("compact", list(compactions)):
            super().compact(compactions)

    def commit(self, row: int, kept: int, table: Sequence[int]) -> None:
        """Commit on all ranks."""
        with self.followers.doing("commit", row, kept, list(table)):
            super().commit(row, kept, table)

    def release(self, row: int, free: Sequence[int] = ()) -> None:
        """Release on all ranks."""
        with self.followers.doing("release", row, list(free)):
            super().release(row, free)

    def close(self) -> None:
        """End the other ranks."""
        self.followers.close()
