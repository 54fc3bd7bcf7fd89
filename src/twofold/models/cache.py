"""The KV cache of one layer: an object that owns its storage, takes new entries, attends over them and
reports its bytes.

The engine hands out *slots* (block · block_size + offset); a cache layer maps a slot to stored entries. Bytes
per block and per sequence are declared once here, and both the allocator and the memory prediction read them.
Shape letters: T new tokens, N visible entries, K KV heads, H heads, D head dimension.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from twofold.devices.base import Device
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, CacheWrite
from twofold.ops.base import Precision

if TYPE_CHECKING:
    from twofold.kernels.cpu.context import CpuContext


@dataclass(frozen=True, slots=True)
class Heads:
    """The attention of one layer: head counts and widths, factor on scores, optional softcap and sliding
    window.

    shared_kv: values are the first `v_dim` elements of the keys (latent attention), so only keys are stored.
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_dim: int
    scale: float
    softcap: float | None
    window: int | None
    compute: Precision
    act_bytes: int
    shared_kv: bool = False

    @property
    def stored_width(self) -> int:
        """Elements stored per token."""
        return self.kv_heads * (self.head_dim + (0 if self.shared_kv else self.v_dim))


@dataclass(frozen=True, slots=True)
class CacheSize:
    """How much a cache layer can hold: `num_blocks` of `block_size` tokens, and `max_seqs` sequences at a
    time."""

    num_blocks: int
    block_size: int
    max_seqs: int


class CacheLayer:
    """Base of cache layers. Subclasses store entries in their own way and count their own bytes.

    tensors: what is allocated (nothing until `allocate`). A modelled device never allocates.
    """

    shareable: bool = True
    """Whether blocks mean the same for every sequence, so that prefix caching may share them."""

    attends_first: ClassVar[bool] = False
    """Whether a step attends before its new entries are stored, which attention and `read` are then given."""

    stored_as: str = ""
    """How entries are stored, for devices whose kernels differ by it; "" as activations are."""

    max_drafts: int = 0
    """Guesses that a sequence may have at once; the engine sets it before anything is counted."""

    def __init__(self, heads: Heads, block_size: int) -> None:
        self.heads = heads
        self.block_size = block_size
        self.tensors: dict[str, torch.Tensor] = {}
        self._written: tuple[int, ...] = ()

    # --- bytes: counted, the same on real and modelled devices ---

    def block_bytes(self) -> int:
        """Bytes of one block."""
        raise NotImplementedError

    def sequence_bytes(self) -> int:
        """Bytes of the per-sequence store (recent entries in full precision, say); 0 where there is none."""
        return 0

    def read_bytes(self, step: StepInput) -> int:
        """Bytes read from the cache to attend over the spans of `step`."""
        raise NotImplementedError

    def write_bytes(self, step: StepInput) -> int:
        """Bytes written to append the new entries of `step`."""
        raise NotImplementedError

    def widen_flop(self, step: StepInput) -> int:
        """Elementwise operations to bring what is read to the compute precision."""
        del step
        return 0

    def pack_flop(self, step: StepInput) -> int:
        """Elementwise operations to pack the new entries of `step`."""
        del step
        return 0

    @property
    def cost_key(self) -> object:
        """Equal for cache layers whose `ops` are equal for equal steps."""
        return type(self), self.heads, self.block_size, self.block_bytes(), self.sequence_bytes()

    @property
    def allocated(self) -> int:
        """Bytes of the tensors that are really held."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    # --- storage: real devices only ---

    def allocate(self, size: CacheSize, where: torch.device) -> None:
        """Allocate the storage."""
        raise NotImplementedError

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Store the new entries k, v [T, K, D] at `step.slots`."""
        raise NotImplementedError

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [N, K, D] visible to sequence `seq` of the step, in order, in the compute
        precision. new: the step's own k, v [T, K, D], where attention comes before they are stored."""
        raise NotImplementedError

    def attend_native(
        self, ctx: CpuContext, op: Attention, q: torch.Tensor, step: StepInput, *new: torch.Tensor
    ) -> Any:
        """Attention by a native kernel: q [T, H, D] to [T, H · v_dim]; NotImplemented where there is none."""
        return NotImplemented

    def write_native(self, ctx: CpuContext, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> Any:
        """Storing by a native kernel; NotImplemented where there is none."""
        return NotImplemented

    def commit(self, row: int, kept: int, table: Sequence[int]) -> None:
        """The sequence in `row`, whose blocks are `table`, had drafts in the step and now ends at `kept`
        entries."""

    def release(self, row: int) -> None:
        """The sequence in `row` is gone."""

    def copy_blocks(
        self, pairs: list[tuple[int, int]], other: Mapping[str, torch.Tensor], *, out: bool
    ) -> None:
        """Copy blocks between this cache and `other` (same tensors, in a second memory): (device block, host
        block)."""
        for name, tensor in self.tensors.items():
            for here, there in pairs:
                if out:
                    other[name][there].copy_(tensor[here])
                else:
                    tensor[here].copy_(other[name][there])

    # --- the step ---

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Append k, v and attend: q [T, H, D] to [T, H · v_dim]. Attention techniques override this."""
        write, attention = self.ops(step)
        out: torch.Tensor | None
        if self.attends_first:
            out = device.execute(attention, q, self, step, k, v)
            device.execute(write, self, step, k, v)
            return out
        device.execute(write, self, step, k, v)
        out = device.execute(attention, q, self, step)
        return out

    def ops(self, step: StepInput) -> tuple[CacheWrite, Attention]:
        """The ops that append the step's new entries and attend over them, with what they count."""
        h = self.heads
        tokens = step.num_tokens
        written = tokens, h.stored_width, self.write_bytes(step), h.act_bytes, self.pack_flop(step)
        if written != self._written:  # recurs from step to step, unlike attention
            self._written, self._write = written, CacheWrite(*written, format=self.stored_as)
        return (
            self._write,
            Attention(
                step.totals(h.window),
                h.heads,
                h.kv_heads,
                h.head_dim,
                h.v_dim,
                self.read_bytes(step),
                h.compute,
                h.act_bytes,
                self.widen_flop(step),
                format=self.stored_as,
            ),
        )


class DenseCache(CacheLayer):
    """Keys and values in the activations' precision: tensors k, v [blocks, block_size, K, D]."""

    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.block_size * self.heads.stored_width * self.heads.act_bytes

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

    def write(self, step: StepInput, k: torch.Tensor, v: torch.Tensor) -> None:
        """Scatter to `step.slots`."""
        assert step.slots is not None
        self.tensors["k"].flatten(0, 1).index_copy_(0, step.slots, k)
        self.tensors["v"].flatten(0, 1).index_copy_(0, step.slots, v)

    def read(self, step: StepInput, seq: int, *new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather the sequence's slots."""
        slots = step.tables[seq]
        return (
            self.tensors["k"].flatten(0, 1).index_select(0, slots),
            self.tensors["v"].flatten(0, 1).index_select(0, slots),
        )


def reserve(shape: tuple[int, ...], dtype: torch.dtype, where: torch.device) -> torch.Tensor:
    """A zeroed tensor. On a CPU its pages take memory only once they are written, so that a cache which is
    reserved generously costs what is used of it."""
    nbytes = math.prod(shape) * dtype.itemsize
    if where.type != "cpu" or not nbytes:
        return torch.zeros(shape, dtype=dtype, device=where)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


class CacheScheme(Protocol):
    """How the cache of a layer is stored. Technique seam."""

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of layer number `layer`, not yet allocated."""


class DenseCacheScheme:
    """Every layer's cache in the activations' precision: the default."""

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """A DenseCache."""
        del layer
        return DenseCache(heads, block_size)
