"""The ops of attention with retrieval: searching graphs of keys, linking keys in them, and attention over
keys of which some lie in host memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from twofold.kernels.registry import reference
from twofold.ops.attention import Attention
from twofold.ops.base import HOST, Cost, Op, Traffic

_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class SplitAttention(Attention):
    """Attention over entries of which some are read from `host`: `host_bytes` of them."""

    host_bytes: int = 0
    host: str = HOST

    def cost(self) -> Cost:
        """That of attention, with what comes from the host."""
        cost = Attention.cost(self)
        return replace(cost, traffic=(*cost.traffic, Traffic("cache", self.host_bytes, 0, self.host)))


@dataclass(frozen=True, slots=True)
class GraphSearch(Op):
    """`searches` walks over graphs that look at `scanned` keys of `dim` elements in all and find `found`."""

    kind: ClassVar[str] = "graph-search"
    searches: int
    scanned: int
    found: int
    dim: int
    act_bytes: int
    host: str = HOST

    def cost(self) -> Cost:
        """An inner product for each key that is looked at, read with its number; the numbers of those
        found."""
        read = self.scanned * (self.dim * self.act_bytes + _ID_BYTES)
        return Cost(
            vector_flop=2.0 * self.dim * self.scanned,
            traffic=(
                Traffic("cache", read, 0, self.host),
                Traffic("activations", self.searches * self.dim * self.act_bytes, _ID_BYTES * self.found),
            ),
        )


@dataclass(frozen=True, slots=True)
class GraphLink(Op):
    """Link `keys` keys of each of `kv_heads` heads with others: `pairs` queries (of all heads) times keys
    that are compared exactly, `scanned` inner products of searches; a key gets `width` neighbours."""

    kind: ClassVar[str] = "graph-link"
    keys: int
    kv_heads: int
    pairs: int
    scanned: int
    dim: int
    width: int
    act_bytes: int
    host: str = HOST

    def cost(self) -> Cost:
        """A matrix product of queries and keys, then an inner product for each key that searches look at."""
        read = (self.keys * self.kv_heads + self.scanned) * self.dim * self.act_bytes
        return Cost(
            flop=2.0 * self.pairs * self.dim,
            vector_flop=2.0 * self.scanned * self.dim,
            traffic=(Traffic("cache", read, self.keys * self.kv_heads * self.width * _ID_BYTES, self.host),),
        )


@reference(SplitAttention)
def split_attention(
    op: SplitAttention, q: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Let `run` attend: q [T, H, D] to [T, H · v_dim]."""
    del op
    return run(q)


@reference(GraphSearch)
@reference(GraphLink)
def let_run(op: Op, run: Callable[[], Any]) -> Any:
    """The cache layer does it: `run`."""
    del op
    return run()
