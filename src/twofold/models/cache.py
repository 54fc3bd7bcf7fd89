"""The KV cache of one layer: an object that owns its storage, takes new entries, attends over them and
reports its bytes.

The engine hands out *slots* (block · block_size + offset); a cache layer maps a slot to stored entries. Bytes
per block and per sequence are declared once here, and both the allocator and the memory prediction read them.
Shape letters: T new tokens, N visible entries, K KV heads, H heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from twofold.devices.base import Device
from twofold.models.attending import Attending
from twofold.models.cache_memory import runs
from twofold.models.context import Context, Maybe
from twofold.models.entries import Entries
from twofold.models.retaining import Retainer
from twofold.models.spec import ModelSpec
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


class Projection(Protocol):
    """The attention sublayer that a cache belongs to, as what makes entries out of inputs."""

    spec: ModelSpec

    def project(self, x: Maybe, ctx: Context) -> tuple[Maybe, Maybe, Maybe]:
        """Inputs x [T, hidden] at the positions of `ctx.step` to queries, keys and values."""


class CacheLayer(Entries):
    """Base of cache layers. Subclasses store entries in their own way and count their own bytes.

    tensors: what is allocated (nothing until `allocate`). A modelled device never allocates. physical: where
    the tensors are ranges of virtual memory, the blocks that appear in them, by number. attending: how
    queries attend; None is plain attention. retainer: what chooses the entries that stay; None: all do.
    parameters: learned tensors, which count as weights. space: the memory in which blocks lie. projection:
    what makes entries, for caches that want inputs.
    """

    shareable: bool = True
    """Whether blocks mean the same for every sequence, so that prefix caching may share them."""

    attends_first: ClassVar[bool] = False
    """Whether a step attends before its new entries are stored, which attention and `read` are then given."""

    stored_as: str = ""
    """How entries are stored, for devices whose kernels differ by it; "" as activations are."""

    parts: int = 2
    """Tensors that a block is spread over: keys and values."""

    wants_inputs: bool = False
    """Whether `attend` is also given the sublayer's inputs x [T, hidden] and the model's rotary tables, since
    entries may be made again by `projection`."""

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
        self.projection: Projection | None = None
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
        assert self.shareable, "what lies beside the blocks would be left behind: the engine refuses it"
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

    def writing(self, step: StepInput) -> CacheWrite:
        """The op that appends the step's new entries."""
        h = self.heads
        written = step.num_tokens, h.stored_width, self.write_bytes(step), h.act_bytes, self.pack_flop(step)
        if written != self._written:  # recurs from step to step, unlike attention
            self._written = written
            self._write = CacheWrite(*written, space=self.space, format=self.stored_as)
        return self._write

    def ops(self, step: StepInput) -> tuple[CacheWrite, Attention]:
        """The ops that append the step's new entries and attend over them, with what they count."""
        h = self.heads
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
        return self.writing(step), attention


class CacheScheme(Protocol):
    """How the cache of a layer is stored. Technique seam. Where what it does depends on data, it also has
    `expect(behaviour)`, which is given the quantities of its technique's `info.behaviour`, and `measured()`,
    which returns them as they were."""

    def cache_layer(self, heads: Heads, block_size: int, layer: int) -> CacheLayer:
        """The cache of layer number `layer`, not yet allocated."""
