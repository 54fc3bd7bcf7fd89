"""The ops of ZipVL's cache layer: attention of important tokens alone, and storing them better than others.

Shape letters: T new tokens, H heads, K KV heads, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from twofold.kernels.reference.attention import attend_sequence
from twofold.kernels.registry import reference
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, CacheWrite

if TYPE_CHECKING:
    from twofold.techniques.cache.zipvl_store import ZipStore


@dataclass(frozen=True, slots=True)
class ZipAttention(Attention):
    """Attention of a batch in which prompts are attended to by their important tokens alone: `totals` are of
    those."""


@dataclass(frozen=True, slots=True)
class ZipWrite(CacheWrite):
    """Put new entries into the cache, those that are important with more bits."""


Chosen = list[torch.Tensor | None]
"""The important tokens of each sequence's new ones, int64; None: all of them."""


@reference(ZipAttention)
def zip_attention(
    op: ZipAttention,
    q: torch.Tensor,
    cache: ZipStore,
    step: StepInput,
    k: torch.Tensor,
    v: torch.Tensor,
    chosen: Chosen,
) -> torch.Tensor:
    """q [T, H, D] to [T, H · v_dim]: important tokens attend to each other and to what was stored before, the
    others to nothing."""
    out = q.new_zeros(q.shape[0], op.heads * op.v_dim)
    start = 0
    for seq, (queries, entries) in enumerate(step.spans):
        end = start + queries
        keys, values = cache.read(step, seq, k, v)
        found = chosen[seq]
        if found is None:
            out[start:end] = attend_sequence(q[start:end], keys, values, cache.heads)
        else:
            old = torch.arange(entries - queries, device=q.device)
            seen = torch.cat((old, entries - queries + found))
            some = attend_sequence(q[start + found], keys[seen], values[seen], cache.heads)
            out.index_copy_(0, start + found, some)
        start = end
    return out


@reference(ZipWrite)
def zip_write(
    op: ZipWrite, cache: ZipStore, step: StepInput, k: torch.Tensor, v: torch.Tensor, chosen: Chosen
) -> None:
    """Let the cache layer store the new entries."""
    del op
    cache.write(step, k, v, chosen)
