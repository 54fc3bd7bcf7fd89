"""The KV cache that native attention reads: keys transposed within a block, in float16, 8 or 4 bits.

Shape letters: B blocks, K KV heads, b tokens of a block, D head dimension, T new tokens, N visible entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from twofold.kernels.cpu import extension
from twofold.kernels.cpu.cache_formats import EntryFormat, Parts, entry_format
from twofold.kernels.cpu.context import CpuContext
from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.cache_memory import reserve
from twofold.models.step import StepInput
from twofold.ops.attention import Attention

BLOCK_MULTIPLE = 16
"""Native kernels take keys by sixteen: the widest vector."""

DIM_MULTIPLE, MAX_DIM = 8, 512
"""Head dimensions that native kernels take."""

MAX_GROUP = 32
"""Query heads per KV head that native kernels take."""


def unfit(heads: Heads, block_size: int) -> str | None:
    """Why a layer cannot be stored in a NativeCache, or None where it can."""
    if heads.shared_kv:
        return "keys and values share their storage"
    if block_size % BLOCK_MULTIPLE:
        return f"block size {block_size} is not a multiple of {BLOCK_MULTIPLE}"
    for dim in (heads.head_dim, heads.v_dim):
        if dim % DIM_MULTIPLE or not 0 < dim <= MAX_DIM:
            return f"head dimension {dim} is not a multiple of {DIM_MULTIPLE} up to {MAX_DIM}"
    if heads.heads > MAX_GROUP * heads.kv_heads:
        return f"{heads.heads // heads.kv_heads} query heads share a KV head, more than {MAX_GROUP}"
    return None


class NativeCache(CacheLayer):
    """Entries of one format, one head's after the other's in each block.

    Tensors: k [B, K, D, b], so that neighbours in memory are neighbouring keys, and v [B, K, b, D]; in 8 bits
    also k_scale [B, K, 1, b] and v_scale [B, K, b, 1], in 4 bits k_scale, k_min [B, K, G, b] and v_scale,
    v_min [B, K, b, G] for G groups of an entry (the elements are then D / 2 bytes).

    ValueError where the layer does not fit (see `unfit`).
    """

    def __init__(self, heads: Heads, block_size: int, fmt: EntryFormat) -> None:
        if (reason := unfit(heads, block_size)) is not None:
            raise ValueError(f"no native cache for this layer: {reason}")
        super().__init__(heads, block_size)
        self.format = fmt
        self.stored_as = fmt.name
        self.parts = 2 * len(fmt.parts)
        self._handle: Any = None
        self._viewed: dict[str, torch.Tensor] = {}

    # --- bytes

    @property
    def entry_bytes(self) -> int:
        """Bytes of one token: keys and values of all KV heads."""
        h = self.heads
        return h.kv_heads * (self.format.entry_bytes(h.head_dim) + self.format.entry_bytes(h.v_dim))

    def block_bytes(self) -> int:
        """Bytes of one block, scales included."""
        return self.block_size * (self.entry_bytes + self.score_bytes)

    def block_parts(self) -> tuple[int, ...]:
        """All parts of keys, then of values."""
        entries, h = self.block_size * self.heads.kv_heads, self.heads
        return tuple(
            entries * self.format.width(part, dim) * dtype.itemsize
            for dim in (h.head_dim, h.v_dim)
            for part, dtype in self.format.parts.items()
        )

    def read_bytes(self, step: StepInput) -> int:
        """Every visible entry once, for all query heads of its group."""
        return step.totals(self.heads.window).keys * self.entry_bytes

    def write_bytes(self, step: StepInput) -> int:
        """One entry per token."""
        return step.num_tokens * self.entry_bytes

    def widen_flop(self, step: StepInput) -> int:
        """The format's operations for each element that is read."""
        return step.totals(self.heads.window).keys * self.heads.stored_width * self.format.widen_flop

    def pack_flop(self, step: StepInput) -> int:
        """The format's operations for each new element."""
        return step.num_tokens * self.heads.stored_width * self.format.pack_flop

    # --- storage

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """All parts of keys and values, zeroed."""
        assert size.block_size == self.block_size
        h, b = self.heads, self.block_size
        self.tensors = {}
        for part, dtype in self.format.parts.items():
            k, v = self.format.width(part, h.head_dim), self.format.width(part, h.v_dim)
            shape = (size.num_blocks, h.kv_heads)
            self.tensors[_name("k", part)] = reserve((*shape, k, b), dtype, where)
            self.tensors[_name("v", part)] = reserve((*shape, b, v), dtype, where)
        self.allocate_scores(size, where)

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Pack and scatter to `step.slots`; leaves the bytes that the native kernel leaves."""
        assert step.slots is not None
        self.store(step.slots, k, v)

    def store(self, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Pack and scatter."""
        block, at = self._places(slots)
        for part, stored in self.format.pack(k.float()).items():
            self.tensors[_name("k", part)][block, :, :, at] = stored
        for part, stored in self.format.pack(v.float()).items():
            self.tensors[_name("v", part)][block, :, at, :] = stored

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather the sequence's slots and widen them: float32 [N, K, D]."""
        return self.load(step.tables[seq])

    def load(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather and widen: float32 [N, K, D]."""
        block, at = self._places(slots)
        keys: Parts = {p: self.tensors[_name("k", p)][block, :, :, at] for p in self.format.parts}
        values: Parts = {p: self.tensors[_name("v", p)][block, :, at, :] for p in self.format.parts}
        return self.format.unpack(keys), self.format.unpack(values)

    def by_slot(self) -> Iterator[torch.Tensor]:
        """Parts of keys with their tokens in front, parts of values with their heads behind them."""
        for name, tensor in self.tensors.items():
            if name == "scores":
                yield tensor
            else:
                yield tensor.permute(0, 3, 1, 2) if name.startswith("k") else tensor.permute(0, 2, 1, 3)

    def load_keys(self, slots: torch.Tensor) -> torch.Tensor:
        """Gather whole blocks and widen: float32 [K, D, N]."""
        blocks = slots[:: self.block_size] // self.block_size
        keys: Parts = {
            p: self.tensors[_name("k", p)].index_select(0, blocks).permute(1, 0, 3, 2)
            for p in self.format.parts
        }
        found = self.format.unpack(keys)  # [K, blocks, b, D]
        return found.permute(0, 3, 1, 2).flatten(2)[:, :, : len(slots)]

    def key_cost(self, entries: int) -> tuple[int, int]:
        """The format's bytes and operations."""
        h = self.heads
        widen = entries * h.kv_heads * h.head_dim * self.format.widen_flop
        return entries * h.kv_heads * self.format.entry_bytes(h.head_dim), widen

    def _places(self, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return slots // self.block_size, slots % self.block_size

    def handle(self) -> Any:
        """The native kernels' view of the storage (`native.PagedCache`), made when it is first asked for."""
        if self._handle is None or self._viewed is not self.tensors:
            h = self.heads
            assert self.tensors, "the cache is not allocated"
            self._viewed = self.tensors
            self._handle = extension().PagedCache(
                self.format.name,
                h.kv_heads,
                self.block_size,
                h.head_dim,
                h.v_dim,
                self._addresses("k"),
                self._addresses("v"),
            )
        return self._handle

    def write_native(self, ctx: CpuContext, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> Any:
        """Store k, v [T, K, D] at `step.slots`."""
        if not (by_token(k) and by_token(v)):
            return NotImplemented
        assert step.slots is not None
        new = k.data_ptr(), k.stride(0), v.data_ptr(), v.stride(0)
        ctx.native.cache_write(ctx.stream, self.handle(), *new, step.slots.data_ptr(), step.num_tokens)
        return None

    def attend_native(
        self, ctx: CpuContext, op: Attention, q: torch.Tensor, step: StepInput, *new: torch.Tensor
    ) -> Any:
        """q [T, H, D] to [T, H · v_dim]."""
        return attend_paged(ctx, self.handle(), self.heads, q, step)

    def _addresses(self, side: str) -> tuple[int, int, int]:
        codes, scale, minimum = (
            0 if (tensor := self.tensors.get(_name(side, part))) is None else tensor.data_ptr()
            for part in ("", "scale", "min")
        )
        return codes, scale, minimum


def by_token(x: torch.Tensor) -> bool:
    """Whether x [T, heads, D] is float32 with each token's heads one after the other."""
    together = x.shape[1] == 1 or x.stride(1) == x.shape[2]
    return x.dtype == torch.float32 and x.stride(2) == 1 and together


def attend_paged(
    ctx: CpuContext, handle: Any, heads: Heads, q: torch.Tensor, step: StepInput, *new: int
) -> Any:
    """q [T, H, D] to [T, H · v_dim] by the native kernel over `handle`, a `native.PagedCache`;
    NotImplemented where the step does not suit it. new: addresses and strides of the step's own k and v,
    where these are not stored yet."""
    spans = step.spans_native() if by_token(q) else None
    if spans is None:
        return NotImplemented
    out = ctx.empty(q.shape[0], heads.heads * heads.v_dim)
    ctx.native.attention(
        ctx.stream,
        handle,
        spans,
        q.data_ptr(),
        q.stride(0),
        out.data_ptr(),
        heads.heads,
        heads.scale,
        heads.softcap or 0.0,
        heads.window or 0,
        *new,
    )
    return out


def _name(side: str, part: str) -> str:
    return f"{side}_{part}" if part else side


@dataclass(frozen=True, slots=True)
class NativeCacheScheme:
    """Every layer's cache in one format for the native kernels: "f16", "int8", "int4", or "f32" for exact
    comparisons.

    Counts bytes without the native kernels, so that it also describes a modelled device. ValueError for an
    unknown format.
    """

    format: str = "f16"

    def __post_init__(self) -> None:
        entry_format(self.format)

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> NativeCache:
        """A NativeCache; ValueError where the layer does not fit one (see `unfit`)."""
        del layer
        return NativeCache(heads, block_size, entry_format(self.format))
