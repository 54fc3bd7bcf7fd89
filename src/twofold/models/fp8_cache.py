"""A cache of 8-bit floats, as serving engines offer it on GPUs: counted, for predictions.

Keys and values take a byte each, with one scale per tensor; attention reads them as they are and computes in
the activations' precision (vLLM's `kv_cache_dtype=fp8`, TensorRT-LLM's `kv_cache_config.dtype=fp8`).
"""

from __future__ import annotations

from typing import ClassVar

from twofold.models.cache import CacheLayer, Heads
from twofold.models.step import StepInput


class Fp8Cache(CacheLayer):
    """One byte per element; nothing is allocated."""

    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.block_size * self.heads.stored_width

    def block_parts(self) -> tuple[int, ...]:
        """Keys and values."""
        h, entries = self.heads, self.block_size * self.heads.kv_heads
        return (entries * h.head_dim,) if h.shared_kv else (entries * h.head_dim, entries * h.v_dim)

    def read_bytes(self, step: StepInput) -> int:
        """Every visible entry once, for all query heads of its group."""
        return step.totals(self.heads.window).keys * self.heads.stored_width

    def write_bytes(self, step: StepInput) -> int:
        """One entry per token."""
        return step.num_tokens * self.heads.stored_width

    def pack_flop(self, step: StepInput) -> int:
        """Scale and round each new element."""
        return 2 * step.num_tokens * self.heads.stored_width


class Fp8CacheScheme:
    """Every layer's cache in 8-bit floats."""

    name: ClassVar[str] = "fp8"

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """An Fp8Cache."""
        del layer
        return Fp8Cache(heads, block_size)
