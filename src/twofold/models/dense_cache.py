"""The cache in the activations' precision: the default, and what others are held against."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput


class DenseCache(CacheLayer):
    """Keys and values in the activations' precision: tensors k, v [blocks, block_size, K, D]."""

    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.block_size * (self.heads.stored_width * self.heads.act_bytes + self.score_bytes)

    def block_parts(self) -> tuple[int, ...]:
        """Keys and values."""
        h, entries = self.heads, self.block_size * self.heads.kv_heads * self.heads.act_bytes
        return (entries * h.head_dim,) if h.shared_kv else (entries * h.head_dim, entries * h.v_dim)

    def read_bytes(self, step: StepInput) -> int:
        """Every visible entry once, for all query heads of its group."""
        return step.totals(self.heads.window).keys * self.heads.stored_width * self.heads.act_bytes

    def write_bytes(self, step: StepInput) -> int:
        """One entry per token."""
        return step.num_tokens * self.heads.stored_width * self.heads.act_bytes

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """Two tensors [blocks, block_size, K, D]."""
        from twofold.models.weights import TORCH_DTYPES

        h = self.heads
        assert not h.shared_kv, "latent attention has no real kernels"
        shape = (size.num_blocks, size.block_size, h.kv_heads)
        dtype = TORCH_DTYPES[h.compute]
        self.tensors = {
            "k": reserve((*shape, h.head_dim), dtype, where),
            "v": reserve((*shape, h.v_dim), dtype, where),
        }
        self.allocate_scores(size, where)

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Scatter to `step.slots`."""
        assert step.slots is not None
        self.store(step.slots, k, v)

    def store(self, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Scatter."""
        self.tensors["k"].flatten(0, 1).index_copy_(0, slots, k)
        self.tensors["v"].flatten(0, 1).index_copy_(0, slots, v)

    def by_slot(self) -> Iterator[torch.Tensor]:
        """The tensors as they are."""
        yield from self.tensors.values()

    def load_keys(self, slots: torch.Tensor) -> torch.Tensor:
        """Gather the slots' keys."""
        return self.tensors["k"].flatten(0, 1).index_select(0, slots).permute(1, 2, 0)

    def key_cost(self, entries: int) -> tuple[int, int]:
        """Keys are stored as they are computed with."""
        return entries * self.heads.kv_heads * self.heads.head_dim * self.heads.act_bytes, 0

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather the sequence's slots, or look at them where they follow each other."""
        if step.starts is not None:
            first, count = step.starts[seq], step.spans[seq].keys
            k, v = (self.tensors[name].flatten(0, 1).narrow(0, first, count) for name in "kv")
            return k, v
        return self.load(step.tables[seq])

    def load(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather."""
        return (
            self.tensors["k"].flatten(0, 1).index_select(0, slots),
            self.tensors["v"].flatten(0, 1).index_select(0, slots),
        )


class DenseCacheScheme:
    """Every layer's cache in the activations' precision: the default."""

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """A DenseCache."""
        del layer
        return DenseCache(heads, block_size)
