"""Cache entries one by one: what dropping, merging and scoring them asks of a cache layer.

Shape letters: N entries, K KV heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from twofold.models.cache_memory import reserve
from twofold.ops.compaction import SCORE_BYTES

if TYPE_CHECKING:
    from twofold.models.cache import CacheSize, Heads
    from twofold.models.retaining import Retainer


class Entries:
    """The part of a cache layer that moves, loads and stores single entries. Layers whose entries depend on
    each other (packed in groups, say) have none of it.

    retainer: what chooses the entries that stay; None: all do.
    """

    heads: Heads
    block_size: int
    tensors: dict[str, torch.Tensor]
    retainer: Retainer | None

    def by_slot(self) -> Iterator[torch.Tensor]:
        """Views of all tensors as [blocks, block_size, K, …]: what an entry is made of."""
        raise NotImplementedError(f"entries of a {type(self).__name__} cannot be moved")

    def move(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy entries from the slots `source`, [n] or, for each KV head, [n, K], to the slots `target`
        [n]."""
        size = self.block_size
        to_block, to = target // size, target % size
        block, at = source // size, source % size
        if source.dim() == 1:
            for view in self.by_slot():
                view[to_block, to] = view[block, at]
            return
        heads = torch.arange(self.heads.kv_heads, device=source.device)
        for view in self.by_slot():
            view[to_block, to] = view[block, at, heads]

    def load(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The entries in `slots` [N], in the compute precision: k, v [N, K, D]."""
        raise NotImplementedError(f"entries of a {type(self).__name__} cannot be read alone")

    def store(self, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Put entries k, v [N, K, D] into `slots` [N]."""
        raise NotImplementedError(f"entries of a {type(self).__name__} cannot be written alone")

    def load_keys(self, slots: torch.Tensor) -> torch.Tensor:
        """The keys in `slots` [N], the first N of a sequence, in the compute precision: [K, D, N]."""
        raise NotImplementedError(f"keys of a {type(self).__name__} cannot be read alone")

    def key_cost(self, entries: int) -> tuple[int, int]:
        """Bytes read to load the keys of `entries` entries, and elementwise operations to widen them."""
        raise NotImplementedError(f"keys of a {type(self).__name__} cannot be read alone")

    @property
    def score_bytes(self) -> int:
        """Bytes of an entry's scores; 0 where entries have none."""
        scored = self.retainer is not None and self.retainer.scores
        return SCORE_BYTES * self.heads.kv_heads if scored else 0

    def allocate_scores(self, size: CacheSize, where: torch.device) -> None:
        """Add the tensor "scores" [blocks, block_size, K] where entries have scores."""
        if self.score_bytes:
            shape = (size.num_blocks, size.block_size, self.heads.kv_heads)
            self.tensors["scores"] = reserve(shape, torch.float32, where)
