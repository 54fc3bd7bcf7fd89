"""Attention over signs: keys and queries as packed bits, compared by the number of bits in which they differ.

Two vectors of signs that differ in h of D elements have the inner product D - 2 h, so that XOR and popcount
replace the product (arXiv:2502.01770, section 3). The entries that differ least from a query are kept, of
equal ones the newer, and only their values are read.

Shape letters: T tokens, H heads, K KV heads, D head dimension, N entries, Q queries, C = D / 8 bytes of a
code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from twofold.models.cache import Heads
from twofold.techniques.attention.had_layout import TopN
from twofold.techniques.weights.bit_planes import pack_bits, unpack_bits

_QUERIES = 16
"""Queries that the plain kernel handles at once, to bound the bytes that it compares."""


@dataclass(frozen=True, slots=True)
class SignMap:
    """How the vectors of some heads become signs: the signs of x · map - threshold; 0 counts as positive.

    map [H, D, D] and threshold [H, D], float32, or None for neither.
    """

    map: torch.Tensor | None = None
    threshold: torch.Tensor | None = None

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, H, D] to what the signs are taken of, float32 [T, H, D]."""
        x = x.float()
        if self.map is not None:
            x = torch.bmm(x.transpose(0, 1), self.map).transpose(0, 1)
        return x if self.threshold is None else x - self.threshold

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, H, D] to codes, uint8 [T, H, C]: the sign of element d in bit d % 8 of byte d // 8."""
        return pack_bits(self.turned(x) >= 0)


def signs_of(codes: torch.Tensor) -> torch.Tensor:
    """Codes [..., C] to their signs, -1.0 or 1.0 [..., D]."""
    return 2.0 * unpack_bits(codes, 8 * codes.shape[-1]) - 1.0


def hamming_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Bits in which codes [..., C] differ, int64 [...]."""
    return _bits_of_bytes(a.device)[(a ^ b).int()].sum(-1)


@lru_cache(maxsize=8)
def _bits_of_bytes(device: torch.device) -> torch.Tensor:
    """The number of bits that are set in every byte, int64 [256]."""
    byte = torch.arange(256, device=device)
    return sum(((byte >> i) & 1 for i in range(8)), torch.zeros_like(byte))


def attend_signs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads, scale: torch.Tensor, top: TopN
) -> torch.Tensor:
    """Codes q [Q, H, C] against codes k [N, K, C] and values v [N, K, v_dim], whose last Q entries are the
    queries' own: float32 [Q, H · v_dim]. scale [H]: of an inner product of signs."""
    queries, entries = len(q), len(k)
    group = heads.heads // heads.kv_heads
    keys = k.permute(1, 0, 2).repeat_interleave(group, 0)  # [H, N, C]
    values = v.permute(1, 0, 2).float()  # [K, N, v_dim]
    out = q.new_empty(queries, heads.heads, heads.v_dim, dtype=torch.float32)
    first = entries - queries
    for start, end, kept in top.runs(first, entries, heads.window, _QUERIES):
        rows = q[start:end].permute(1, 0, 2)  # [H, R, C]
        distance = hamming_distances(rows.unsqueeze(2), keys.unsqueeze(1))  # [H, R, N]
        chosen = _nearest(distance, first + start, heads.window, kept)
        scores = scale[:, None, None] * (heads.head_dim - 2.0 * distance.gather(-1, chosen))
        if heads.softcap is not None:
            scores = scores.div_(heads.softcap).tanh_().mul_(heads.softcap)
        weights = scores.softmax(-1)
        kv_head = torch.arange(heads.heads, device=q.device)[:, None, None] // group
        found = values[kv_head, chosen]  # [H, R, kept, v_dim]
        summed = torch.bmm(weights.flatten(0, 1).unsqueeze(1), found.flatten(0, 1))
        out[start:end] = summed.view(heads.heads, end - start, -1).transpose(0, 1)
    return out.flatten(1)


def _nearest(distance: torch.Tensor, position: int, window: int | None, kept: int) -> torch.Tensor:
    """Of the entries that row r (at `position` + r) sees, the `kept` that differ least, the newer one of
    equals: distance [H, R, N] to indices [H, R, kept]."""
    _, rows, entries = distance.shape
    entry = torch.arange(entries, device=distance.device)
    row = torch.arange(position, position + rows, device=distance.device)[:, None]
    hidden = entry > row
    if window is not None:
        hidden = hidden | (entry <= row - window)
    order = distance * entries + (entries - 1 - entry)
    order = order.masked_fill(hidden, torch.iinfo(torch.int64).max)
    return order.topk(kept, dim=-1, largest=False).indices
