"""TriForce's retrieval: which chunks of a sequence's cache one query would attend to most, copied into a
cache of their own, per KV head.

Shape letters: N entries, C chunks of S entries, M copied entries, H heads, K KV heads, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch

from twofold.devices.base import Device
from twofold.kernels.registry import reference
from twofold.models.cache import CacheLayer
from twofold.models.step import StepInput
from twofold.ops.base import Cost, Op, Traffic


@dataclass(frozen=True, slots=True)
class Retrieve(Op):
    """Score `entries` // `chunk` chunks by the inner product of a query and their mean key, and copy the
    first, the `chunks` - 1 best others, and what is left behind the last whole chunk, into another cache.

    key_bytes, widen_flop: to load all keys; entry_bytes: of an entry as it is stored.
    """

    kind: ClassVar[str] = "select-tokens"
    entries: int
    chunk: int
    chunks: int
    heads: int
    kv_heads: int
    head_dim: int
    key_bytes: int
    widen_flop: int
    entry_bytes: int

    @property
    def copied(self) -> int:
        """Entries copied."""
        return self.chunks * self.chunk + self.entries % self.chunk

    def cost(self) -> Cost:
        """Keys are read once for the means; 2 FLOP per element of a mean for the scores; what is copied is
        read and written."""
        elements = self.kv_heads * self.head_dim
        scored = self.entries // self.chunk
        moved = self.copied * self.entry_bytes
        return Cost(
            flop=2.0 * scored * elements,
            vector_flop=float(self.entries * elements + self.widen_flop + self.heads * self.head_dim),
            precision="fp32",
            traffic=(Traffic("cache", self.key_bytes + moved, moved),),
        )


@reference(Retrieve)
def retrieve(
    op: Retrieve,
    query: torch.Tensor,
    source: CacheLayer,
    slots: torch.Tensor,
    target: CacheLayer,
    places: torch.Tensor,
) -> None:
    """query [H, D]; the entries in `slots` [N] of `source` are copied to the slots `places` [M] of `target`,
    the best chunks first. Query heads that share a KV head choose together."""
    k, v = source.load(slots)
    scored = op.entries // op.chunk
    whole = scored * op.chunk
    chosen = torch.zeros(op.kv_heads, op.chunks, dtype=torch.long, device=k.device)  # [K, chunks]
    means = k[:whole].float().view(scored, op.chunk, *k.shape[1:]).mean(1)  # [C, K, D]
    shared = query.float().view(op.kv_heads, -1, op.head_dim).sum(1)  # [K, D]
    scores = (means.transpose(0, 1) @ shared.unsqueeze(-1)).squeeze(-1)  # [K, C]
    if op.chunks:
        chosen[:, 1:] = scores[:, 1:].topk(op.chunks - 1).indices + 1
    entries = (chosen[..., None] * op.chunk + torch.arange(op.chunk, device=k.device)).flatten(1)  # [K, M']
    head = torch.arange(op.kv_heads, device=k.device)[:, None]
    parts = [(x[entries, head].transpose(0, 1), x[whole:]) for x in (k, v)]
    target.store(places, *(torch.cat(part) for part in parts))


class Wanted(NamedTuple):
    """What is to be retrieved for one sequence: from `slots` of the target's cache to `places`, slots of the
    retrieval cache (None each on a modelled device); `entries` and `chunks` as in `Retrieve`."""

    entries: int
    chunks: int
    slots: torch.Tensor | None = None
    places: torch.Tensor | None = None


class RetrievingCache(CacheLayer):
    """A retrieval cache during the pass that fills it: queries choose before they attend.

    source: the target's cache; inner: the retrieval cache; wanted: of each sequence of the step, shared by
    all layers.
    """

    def __init__(self, source: CacheLayer, inner: CacheLayer, chunk: int, wanted: list[Wanted]) -> None:
        super().__init__(inner.heads, inner.block_size)
        self.source, self.inner, self.chunk, self.wanted = source, inner, chunk, wanted

    def block_bytes(self) -> int:
        """Those of the cache that is filled."""
        return self.inner.block_bytes()

    def attend(
        self,
        device: Device,
        step: StepInput,
        q: torch.Tensor | None,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """One query of each sequence retrieves, then attends over what it retrieved and its own entry."""
        for seq, wanted in enumerate(self.wanted):
            query = None if q is None else q[seq]
            op = self.op(wanted)
            device.execute(op, query, self.source, wanted.slots, self.inner, wanted.places)
        return self.inner.attend(device, step, q, k, v)

    def op(self, wanted: Wanted) -> Retrieve:
        """The op that retrieves."""
        h = self.heads
        key_bytes, widen_flop = self.source.key_cost(wanted.entries)
        entry = self.source.block_bytes() // self.source.block_size
        shape = h.heads, h.kv_heads, h.head_dim
        return Retrieve(wanted.entries, self.chunk, wanted.chunks, *shape, key_bytes, widen_flop, entry)
