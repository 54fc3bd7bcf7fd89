"""The cache layer of KIVI: the store, read and written by native kernels where they take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from twofold.kernels.cpu import extension
from twofold.kernels.cpu.cache import BLOCK_MULTIPLE, attend_paged, by_token, unfit
from twofold.kernels.cpu.context import CpuContext
from twofold.models.cache import CacheSize, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.techniques.cache.groups import Groups
from twofold.techniques.cache.kivi_layout import Layout
from twofold.techniques.cache.kivi_store import KiviStore

MAX_GROUP = 512
"""Elements of a group that native kernels take (kMaxGroup)."""


class KiviCache(KiviStore):
    """A store for native kernels (csrc/attention_grouped.h). They take activations in float32 and groups of
    at most MAX_GROUP; elsewhere the store widens what it reads. Shape letters: see `kivi_store`."""

    def __init__(self, heads: Heads, block_size: int, layout: Layout) -> None:
        super().__init__(heads, block_size, layout)
        self._handle: Any = None

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """See `KiviStore.allocate`."""
        super().allocate(size, where)
        self._handle = None

    def _append_drafts(self, row: int, base: int, kept: int, table: Sequence[int]) -> None:
        if self._handle is None:
            super()._append_drafts(row, base, kept, table)
        else:
            extension().commit_drafts(self._handle, row, kept, table)

    def attend_native(
        self, ctx: CpuContext, op: Attention, q: torch.Tensor, step: StepInput, *new: torch.Tensor
    ) -> Any:
        """q [T, H, D] to [T, H · D]."""
        k, v = new
        if not (self._native() and by_token(k) and by_token(v)):
            return NotImplemented
        where = k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0)
        return attend_paged(ctx, self._native(), self.heads, q, step, *where)

    def write_native(self, ctx: CpuContext, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> Any:
        """Append k, v [T, K, D]."""
        spans = step.spans_native() if by_token(k) and by_token(v) else None
        if spans is None or not self._native():
            return NotImplemented
        where = k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0)
        ctx.native.grouped_write(ctx.stream, self._native(), spans, *where)
        return None

    def _native(self) -> Any:
        """The native kernels' view of the storage, made when first asked for; None where they cannot take
        it."""
        h, lay = self.heads, self.layout
        fits = h.compute == "fp32" and lay.group <= MAX_GROUP and not self.block_size % BLOCK_MULTIPLE
        if self._handle is None and fits and unfit(h, self.block_size) is None:

            def address(name: str) -> int:
                return self.tensors[name].data_ptr() if name in self.tensors else 0

            self._handle = extension().grouped_cache(
                lay.bits,
                lay.group,
                self.value_group,
                lay.residual,
                self.max_drafts,
                h.kv_heads,
                self.block_size,
                h.head_dim,
                h.v_dim,
                tuple(address(f"k_{part}") for part in Groups._fields),
                tuple(address(f"v_{part}") for part in Groups._fields),
                (address("k_window"), address("v_window")),
                (address("k_drafts"), address("v_drafts")),
                self.lengths.data_ptr(),
            )
        return self._handle
