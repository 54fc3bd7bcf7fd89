"""Ops that choose tokens of a prompt by the inner products of its last query with all keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from twofold.kernels.registry import reference
from twofold.ops.base import Cost, Op, Traffic


@dataclass(frozen=True, slots=True)
class LastQueryScores(Op):
    """Inner products of one query with the keys of `tokens` tokens, summed over heads: [tokens], float32.

    Heads that share a KV head are summed before the product: the sum over heads of q · k is (sum of q) · k.
    """

    kind: ClassVar[str] = "select-tokens"
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    act_bytes: int

    def cost(self) -> Cost:
        """2 FLOP per key element in float32; keys are read once and widened."""
        keys, query = self.tokens * self.kv_heads * self.head_dim, self.heads * self.head_dim
        return Cost(
            flop=2.0 * keys,
            vector_flop=float(query + keys),
            precision="fp32",
            traffic=(Traffic("activations", (keys + query) * self.act_bytes, 4 * self.tokens),),
        )


@dataclass(frozen=True, slots=True)
class SelectTokens(Op):
    """Average `tokens` scores over `kernel_size` neighbours, take the `keep` highest: ascending positions."""

    kind: ClassVar[str] = "select-tokens"
    tokens: int
    keep: int
    kernel_size: int

    def cost(self) -> Cost:
        """One addition per score and neighbour, one comparison per score, and a sort of what is kept."""
        work = self.tokens * (self.kernel_size + 1.0) + self.keep * math.log2(max(2, self.keep))
        return Cost(vector_flop=work, traffic=(Traffic("activations", 4 * self.tokens, 8 * self.keep),))


@reference(LastQueryScores)
def last_query_scores(op: LastQueryScores, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """query [H, D] and keys [T, K, D] to [T] in float32."""
    summed = query.float().view(op.kv_heads, -1, op.head_dim).sum(1)
    return (keys.float().flatten(1) @ summed.view(-1, 1)).squeeze(1)


@reference(SelectTokens)
def select_tokens(op: SelectTokens, scores: torch.Tensor) -> torch.Tensor:
    """scores [T] to positions [keep], int64. Neighbours beyond either end count as zero."""
    pad = op.kernel_size // 2
    pooled = F.avg_pool1d(scores[None, None], op.kernel_size, stride=1, padding=pad)[0, 0]
    return pooled.topk(op.keep).indices.sort().values
