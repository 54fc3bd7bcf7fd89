"""The ops of sparse window attention: choosing tokens, gathering their keys and values, and attention that
leaves the weights of its queries behind.

Shape letters: Q queries of a sequence, N entries, K KV heads, H heads, G heads per KV head, D head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from twofold.kernels.reference.attention import hidden_keys
from twofold.kernels.registry import reference
from twofold.models.cache import Heads
from twofold.ops.attention import Attention, CacheWrite
from twofold.ops.base import Cost, Op, Traffic

WEIGHT_BYTES = 2
"""An attention weight that is kept, summed over heads, is a float16."""


@dataclass(frozen=True, slots=True)
class LocalSum(Op):
    """Add up the `weights` kept attention weights of the candidates of all sequences, `sums` in all, and take
    the `chosen` greatest."""

    kind: ClassVar[str] = "select-tokens"
    weights: int
    sums: int
    chosen: int

    def cost(self) -> Cost:
        """An addition per weight, a comparison per sum, a sort of what is chosen."""
        work = self.weights + self.sums + self.chosen * math.log2(max(2, self.chosen))
        return Cost(
            vector_flop=work,
            traffic=(
                Traffic("cache", WEIGHT_BYTES * self.weights),
                Traffic("activations", 0, 8 * self.chosen),
            ),
        )


@dataclass(frozen=True, slots=True)
class GatherEntries(Op):
    """Pack the keys and values of `entries` tokens densely in the activations' precision: `stored` of them
    are read as they are stored, `stored_bytes` each, the others were just computed."""

    kind: ClassVar[str] = "gather-entries"
    entries: int
    stored: int
    stored_bytes: int
    width: int
    act_bytes: int
    widen_flop: int

    def cost(self) -> Cost:
        """Each entry read and written once; `widen_flop` elementwise operations for each that was stored."""
        row = self.width * self.act_bytes
        read = self.stored * self.stored_bytes + (self.entries - self.stored) * row
        return Cost(
            vector_flop=float(self.widen_flop * self.stored),
            traffic=(Traffic("cache", read), Traffic("activations", 0, self.entries * row)),
        )


@dataclass(frozen=True, slots=True)
class WindowAttention(Attention):
    """Attention over gathered entries. kept: attention weights, summed over heads, that are kept; again:
    (query, entry) pairs whose weights are computed a second time for that, since attention over all of a
    prompt keeps none."""

    kept: int = 0
    again: int = 0

    def cost(self) -> Cost:
        """That of attention, with scores and softmax of the pairs computed again and a sum over heads of what
        is kept."""
        cost = Attention.cost(self)
        extra = 5.0 * self.again * self.heads + self.kept * self.heads
        return replace(
            cost,
            flop=cost.flop + 2.0 * self.again * self.heads * self.head_dim,
            vector_flop=cost.vector_flop + extra,
            traffic=(*cost.traffic, Traffic("cache", 0, WEIGHT_BYTES * self.kept)),
        )


@dataclass(frozen=True, slots=True)
class StoreEntries(CacheWrite):
    """Storing new entries, and with the oldest of them `inputs` rows of `input_width` numbers, `input_bytes`
    as stored there, packed by `input_flop` elementwise operations each."""

    inputs: int = 0
    input_width: int = 0
    input_bytes: int = 0
    input_flop: int = 0

    def cost(self) -> Cost:
        """That of writing the entries, and the inputs likewise."""
        cost = CacheWrite.cost(self)
        more = (
            Traffic("activations", self.inputs * self.input_width * self.act_bytes),
            Traffic("cache", 0, self.inputs * self.input_bytes, self.space),
        )
        flop = cost.vector_flop + self.inputs * self.input_flop
        return replace(cost, vector_flop=flop, traffic=(*cost.traffic, *more))


def attention_weights(q: torch.Tensor, k: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Weights of queries q [Q, H, D] on keys k [N, K, D], the last Q of which are the queries' own: float32
    [K, G · Q, N]."""
    queries, entries = len(q), len(k)
    grouped = q.view(queries, heads.kv_heads, -1, heads.head_dim).permute(1, 2, 0, 3)
    scores = torch.bmm(grouped.flatten(1, 2), k.permute(1, 2, 0)).mul_(heads.scale)
    if heads.softcap is not None:
        scores = scores.div_(heads.softcap).tanh_().mul_(heads.softcap)
    if queries > 1:
        hidden = hidden_keys(queries, entries - queries, 0, entries, None, q.device)
        scores.view(heads.kv_heads, -1, queries, entries).masked_fill_(hidden, float("-inf"))
    return scores.float().softmax(-1)


def over_heads(weights: torch.Tensor, queries: int) -> torch.Tensor:
    """Attention weights [K, G · Q, N] added up over heads: [Q, N]."""
    return weights.view(len(weights), -1, queries, weights.shape[-1]).sum((0, 1))


def weighted(weights: torch.Tensor, v: torch.Tensor, queries: int) -> torch.Tensor:
    """Values v [N, K, D] by weights [K, G · Q, N]: [Q, H · D]."""
    out = torch.bmm(weights.to(v.dtype), v.permute(1, 0, 2))
    return out.view(len(weights), -1, queries, v.shape[-1]).permute(2, 0, 1, 3).reshape(queries, -1)


@reference(StoreEntries)
@reference(LocalSum)
@reference(GatherEntries)
def let_run(op: Op, run: Callable[[], Any]) -> Any:
    """The cache layer does it: `run`."""
    del op
    return run()


@reference(WindowAttention)
def window_attention(
    op: WindowAttention, q: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Let `run` attend: q [T, H, D] to [T, H · v_dim]."""
    del op
    return run(q)
