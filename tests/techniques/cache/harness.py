"""A KIVI cache fed by hand, and what it should hold, written as plainly as the method can be stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from twofold.models.cache import CacheSize, Heads
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.cache.kivi import KiviScheme
from twofold.techniques.cache.kivi_cache import KiviCache

KV_HEADS, DIM, BLOCK, NUM_BLOCKS, MAX_SEQS = 2, 16, 16, 40, 3
GROUP, RESIDUAL = 8, 24


def make_heads(window: int | None = None, dim: int = DIM) -> Heads:
    """Four query heads on two KV heads, fp32."""
    return Heads(4, KV_HEADS, dim, dim, dim**-0.5, None, window, "fp32", 4)


def make_cache(
    bits: int = 2,
    window: int | None = None,
    group: int = GROUP,
    residual: int = RESIDUAL,
    dim: int = DIM,
    drafts: int = 0,
) -> KiviCache:
    """An allocated cache."""
    cache = KiviScheme(bits, group, residual).cache_layer(make_heads(window, dim), BLOCK, 0)
    cache.max_drafts = drafts
    cache.allocate(CacheSize(NUM_BLOCKS, BLOCK, MAX_SEQS), torch.device("cpu"))
    assert isinstance(cache, KiviCache)
    return cache


def make_dense(window: int | None = None) -> DenseCache:
    """The unmodified cache of the same size."""
    cache = DenseCache(make_heads(window), BLOCK)
    cache.allocate(CacheSize(NUM_BLOCKS, BLOCK, MAX_SEQS), torch.device("cpu"))
    return cache


def entries(count: int, seed: int = 0, dim: int = DIM) -> tuple[torch.Tensor, torch.Tensor]:
    """Random keys and values [count, K, D]; a few channels of the keys are larger, as they are in models."""
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, count, KV_HEADS, dim, generator=generator)
    return k * (1 + 5 * (torch.arange(dim) % 7 == 0)), v


@dataclass
class Part:
    """A sequence's part of a step: its row, its blocks, its entries start … end, the last of them drafts."""

    row: int
    blocks: Sequence[int]
    start: int
    end: int
    drafts: int = 0


def make_step(parts: Sequence[Part]) -> StepInput:
    """The step in which `parts` are computed together."""
    tables = [
        (torch.tensor(p.blocks)[:, None] * BLOCK + torch.arange(BLOCK)).flatten()[: p.end] for p in parts
    ]
    spans = [Span(p.end - p.start, p.end) for p in parts]
    slots = torch.cat([t[p.start :] for t, p in zip(tables, parts, strict=True)])
    return StepInput(
        spans,
        sum(s.queries for s in spans),
        0,
        slots=slots,
        tables=tables,
        rows=[p.row for p in parts],
        drafts=[p.drafts for p in parts],
    )


def feed(
    cache: KiviCache,
    k: torch.Tensor,
    v: torch.Tensor,
    cuts: Sequence[int],
    row: int = 0,
    first_block: int = 0,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Append k, v in steps that end at `cuts`; returns what attention sees in each step."""
    blocks = range(first_block, first_block + -(-len(k) // BLOCK))
    seen, start = [], 0
    for end in cuts:
        step = make_step([Part(row, blocks, start, end)])
        new = k[start:end], v[start:end]
        seen.append(cache.read(step, 0, *new))
        cache.write(step, *new)
        start = end
    return seen


def rounded(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Groups along the last dimension, to what their codes stand for, one number after the other."""
    top, out = 2**bits - 1, []
    for group in x.reshape(-1, x.shape[-1]).tolist():
        zero = float(np.float16(min(group)))
        scale = float(
            np.float16(np.float32(np.float32(max(group)) - np.float32(min(group))) / np.float32(top))
        )
        codes = [0 if scale == 0 else min(max(round((n - zero) / scale), 0), top) for n in group]
        out.append([zero + code * scale for code in codes])
    return torch.tensor(out).view(x.shape)


def expected(
    k: torch.Tensor, v: torch.Tensor, before: int, bits: int, group: int = GROUP, residual: int = RESIDUAL
) -> tuple[torch.Tensor, torch.Tensor]:
    """What attention sees of entries k, v when `before` of them were there when the step began."""
    k, v = k.clone(), v.clone()
    whole = before // residual * residual
    for start in range(0, whole, group):
        part = k[start : start + group]
        k[start : start + group] = rounded(part.permute(1, 2, 0).contiguous(), bits).permute(2, 0, 1)
    old = max(0, before - residual)
    width = min(group, v.shape[-1])
    for channel in range(0, v.shape[-1], width):
        v[:old, :, channel : channel + width] = rounded(
            v[:old, :, channel : channel + width].contiguous(), bits
        )
    return k, v
