"""Which tokens of a prompt are important to a layer: the op that finds them.

Shape letters: T tokens of the prompt's piece, N entries that the last of them sees, P probes, H heads, K
KV heads, D head dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from twofold.kernels.registry import reference
from twofold.models.cache import Heads
from twofold.ops.base import Cost, Op, Traffic


@dataclass(frozen=True, slots=True)
class SelectImportant(Op):
    """Attention of `probes` of `tokens` queries over `entries` entries, which says what of the tokens
    matters.

    cache_bytes: bytes read of entries that were stored before; act_bytes: of an activation.
    """

    kind: ClassVar[str] = "select-tokens"
    probes: int
    tokens: int
    entries: int
    heads: int
    kv_heads: int
    head_dim: int
    cache_bytes: int
    act_bytes: int

    def cost(self) -> Cost:
        """2 FLOP per probe, entry, head and dimension; about 5 per score for the softmax and 2 to add up; two
        sorts of the tokens."""
        scores = self.probes * self.entries * self.heads
        sort = 2.0 * self.tokens * math.log2(max(2, self.tokens))
        read = (self.probes * self.heads + self.tokens * self.kv_heads) * self.head_dim * self.act_bytes
        return Cost(
            flop=2.0 * scores * self.head_dim,
            vector_flop=7.0 * scores + sort,
            traffic=(Traffic("cache", self.cache_bytes), Traffic("activations", read, 8 * self.tokens)),
        )


def probe_rows(tokens: int, probes: int) -> torch.Tensor:
    """The queries of `tokens` that probe: the newest `probes`, and as many of the others, spread evenly;
    int64, ascending."""
    recent = min(probes, tokens)
    others = tokens - recent
    spread = torch.arange(min(probes, others)) * others // max(1, min(probes, others))
    return torch.cat((spread, torch.arange(others, tokens)))


def num_probes(tokens: int, probes: int) -> int:
    """How many queries probe."""
    return min(tokens, 2 * probes)


def important(probed: torch.Tensor, seen: torch.Tensor, tau: float) -> torch.Tensor:
    """The important tokens, int64, ascending, by the attention that each token got from all probes, probed
    [T], and the number of probes that saw it, seen [T].

    There are as many as the fewest tokens that hold the share `tau` of all attention; they are those with the
    greatest mean weight, and the newest, from whose output the next token is sampled.
    """
    ordered = probed.sort(descending=True).values.cumsum(0)
    count = min(len(probed), int((ordered < tau * ordered[-1]).sum()) + 1)
    mean = probed / seen.clamp(min=1)
    mean[-1] = math.inf
    return mean.topk(count).indices.sort().values


@reference(SelectImportant)
def select_important(
    op: SelectImportant, q: torch.Tensor, keys: torch.Tensor, heads: Heads, probes: int, tau: float
) -> torch.Tensor:
    """q [T, H, D] and keys [N, K, D], of which the last T are the tokens' own, to the important tokens,
    int64."""
    tokens, entries = len(q), len(keys)
    rows = probe_rows(tokens, probes).to(q.device)
    group = heads.heads // heads.kv_heads
    probe = q.index_select(0, rows).view(len(rows), heads.kv_heads, group, -1).permute(1, 2, 0, 3)
    probe = probe.reshape(heads.kv_heads, group * len(rows), -1)
    scores = torch.bmm(probe, keys.permute(1, 2, 0)).mul_(heads.scale)
    if heads.softcap is not None:
        scores = scores.div_(heads.softcap).tanh_().mul_(heads.softcap)
    distance = (entries - tokens + rows)[:, None] - torch.arange(entries, device=q.device)
    hidden = (distance < 0) | (distance >= (heads.window or entries))
    scores = scores.view(heads.heads, len(rows), entries).masked_fill(hidden, float("-inf"))
    weights = scores.float().softmax(-1)[..., entries - tokens :]
    assert op.probes == len(rows), (op, len(rows))
    return important(weights.sum((0, 1)), (~hidden).sum(0)[entries - tokens :], tau)
