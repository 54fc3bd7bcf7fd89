"""The KV cache of one layer: an object that owns its storage, takes new entries, attends over them and
reports its bytes.

The engine hands out *slots* (block · block_size + offset); a cache layer maps a slot to stored entries. Bytes
per block and per sequence are declared once here, and both the allocator and the memory prediction read them.
Shape letters: T new tokens, N visible entries, K KV heads, H heads, D head dimension.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from twofold.devices.base import Device
from twofold.models.attending import Attending
from twofold.models.entries import Entries
from twofold.models.retaining import Retainer
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, CacheWrite
from twofold.ops.base import DEVICE, Precision

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


class CacheLayer(Entries):
    """Base of cache layers. Subclasses store entries in their own way and count their own bytes.

    tensors: what is allocated (nothing until `allocate`). A modelled device never allocates. physical: where
    the tensors are ranges of virtual memory, the blocks that appear in them, by number. attending: how
    queries attend; None is plain attention. retainer: what chooses the entries that stay; None: all do.
    parameters: learned tensors, which count as weights. space: the memory in which blocks lie.
    """

    shareable: bool = True
    """Whether blocks mean the same for every sequence, so that prefix caching may share them."""

    attends_first: ClassVar[bool] = False
    """Whether a step attends before its new entries are stored, which attention and `read` are then given."""

    stored_as: str = ""
    """How entries are stored, for devices whose kernels differ by it; "" as activations are."""

    parts: int = 2
    """Tensors that a block is spread over: keys and values."""

    max_drafts: int = 0
    """Guesses that a sequence may have at once; the engine sets it before anything is counted."""

    def __init__(self, heads: Heads, block_size: int) -> None:
        self.heads = heads
        self.block_size = block_size
        self.tensors: dict[str, torch.Tensor] = {}
        self.parameters: dict[str, torch.Tensor] = {}
        self.physical: dict[str, torch.Tensor] = {}
        self.attending: Attending | None = None
        self.retainer: Retainer | None = None
        self.space = DEVICE
        self._written: tuple[int, ...] = ()

    # --- bytes: counted, the same on real and modelled devices ---

    def block_bytes(self) -> int:
        """Bytes of one block."""
        raise NotImplementedError

    def block_parts(self) -> tuple[int, ...]:
        """Bytes of one block in each of the tensors; empty where entries do not lie in blocks alone."""
        return ()

    def sequence_bytes(self) -> int:
        """Bytes of the per-sequence store (recent entries in full precision, say); 0 where there is none."""
        return 0

    def parameter_bytes(self) -> int:
        """Bytes of `parameters`, which count as weights; 0 where there are none."""
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
        method = None if self.attending is None else self.attending.cost_key
        keeps = None if self.retainer is None else self.retainer.cost_key
        stored = self.block_bytes(), self.sequence_bytes()
        return type(self), self.heads, self.block_size, *stored, method, keeps, self.space

    @property
    def blocks(self) -> dict[str, torch.Tensor]:
        """The tensors whose blocks have the engine's numbers: what is copied to and from other memories."""
        return self.physical or self.tensors

    @property
    def allocated(self) -> int:
        """Bytes of the tensors that are really held."""
        return sum(t.numel() * t.element_size() for t in self.blocks.values())

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
        for name, tensor in self.blocks.items():
            for here, there, count in runs(pairs):
                mine, theirs = tensor[here : here + count], other[name][there : there + count]
                if out:
                    theirs.copy_(mine)
                else:
                    mine.copy_(theirs)

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
        if self.attends_first:
            out = self._answer(device, step, attention, q, k, v)
            device.execute(write, self, step, k, v)
        else:
            device.execute(write, self, step, k, v)
            out = self._answer(device, step, attention, q)
        if step.observed and self.retainer is not None:
            self.retainer.observe(device, self, step, q)
        return out

    def _answer(
        self,
        device: Device,
        step: StepInput,
        attention: Attention,
        q: torch.Tensor | None,
        *new: torch.Tensor | None,
    ) -> torch.Tensor | None:
        if self.attending is not None:
            return self.attending.attend(device, self, step, attention, q, *new)
        out: torch.Tensor | None = device.execute(attention, q, self, step, *new)
        return out

    def ops(self, step: StepInput) -> tuple[CacheWrite, Attention]:
        """The ops that append the step's new entries and attend over them, with what they count."""
        h = self.heads
        tokens = step.num_tokens
        written = tokens, h.stored_width, self.write_bytes(step), h.act_bytes, self.pack_flop(step)
        if written != self._written:  # recurs from step to step, unlike attention
            self._written = written
            self._write = CacheWrite(*written, space=self.space, format=self.stored_as)
        attention = Attention(
            step.totals(h.window),
            h.heads,
            h.kv_heads,
            h.head_dim,
            h.v_dim,
            self.read_bytes(step),
            h.compute,
            h.act_bytes,
            self.widen_flop(step),
            space=self.space,
            format=self.stored_as,
        )
        if self.attending is not None:
            attention = self.attending.op(attention, step)
        return self._write, attention


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


def reserve(shape: tuple[int, ...], dtype: torch.dtype, where: torch.device) -> torch.Tensor:
    """A zeroed tensor. On a CPU its pages take memory only once they are written, so that a cache which is
    reserved generously costs what is used of it."""
    nbytes = math.prod(shape) * dtype.itemsize
    if where.type != "cpu" or not nbytes:
        return torch.zeros(shape, dtype=dtype, device=where)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def runs(pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Pieces (first, first, length) of block pairs that are contiguous on both sides, in order."""
    begin = 0
    for index in range(1, len(pairs) + 1):
        if index < len(pairs):
            (a, b), following = pairs[index - 1], pairs[index]
            if following == (a + 1, b + 1):
                continue
        yield (*pairs[begin], index - begin)
        begin = index


class CacheScheme(Protocol):
    """How the cache of a layer is stored. Technique seam. Where what it does depends on data, it also has
    `expect(behaviour)`, which is given the quantities of its technique's `info.behaviour`, and `measured()`,
    which returns them as they were."""

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of layer number `layer`, not yet allocated."""


class DenseCacheScheme:
    """Every layer's cache in the activations' precision: the default."""

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """A DenseCache."""
        del layer
        return DenseCache(heads, block_size)
