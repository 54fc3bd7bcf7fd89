"""Random batches over a paged cache, for tests of native attention."""

from __future__ import annotations

import random

import torch

from twofold.kernels.cpu.cache import NativeCache, NativeCacheScheme
from twofold.models.cache import CacheSize, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Span


def heads(
    count: int = 6,
    kv_heads: int = 2,
    dim: int = 64,
    v_dim: int | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> Heads:
    """A layer's attention in float32."""
    return Heads(count, kv_heads, dim, v_dim or dim, dim**-0.5, softcap, window, "fp32", 4)


def filled_cache(layer: Heads, fmt: str, num_blocks: int, block_size: int = 16) -> NativeCache:
    """A cache whose blocks all hold random entries, written by torch."""
    cache = NativeCacheScheme(fmt).cache_layer(layer, block_size, 0)
    cache.allocate(CacheSize(num_blocks, block_size, 4), torch.device("cpu"))
    slots = num_blocks * block_size
    step = StepInput([Span(slots, slots)], slots, 1, slots=torch.arange(slots))
    cache.write(
        step, entries(slots, layer.kv_heads, layer.head_dim), entries(slots, layer.kv_heads, layer.v_dim)
    )
    return cache


def entries(tokens: int, count: int, dim: int) -> torch.Tensor:
    """Random float32 [tokens, count, dim] of widely different magnitudes between rows."""
    return torch.randn(tokens, count, dim) * torch.rand(tokens, count, 1).mul(3).exp() * 0.3


def step_of(spans: list[tuple[int, int]], num_blocks: int, block_size: int = 16, seed: int = 0) -> StepInput:
    """A step of these (queries, keys), whose sequences lie in shuffled blocks, none of them shared."""
    free = list(range(num_blocks))
    random.Random(seed).shuffle(free)
    tables = [[free.pop() for _ in range(-(-keys // block_size))] for _, keys in spans]
    tokens = sum(queries for queries, _ in spans)
    slots = [
        table[at // block_size] * block_size + at % block_size
        for (queries, keys), table in zip(spans, tables, strict=True)
        for at in range(keys - queries, keys)
    ]
    return StepInput(
        [Span(*span) for span in spans],
        tokens,
        len(spans),
        token_ids=torch.zeros(tokens, dtype=torch.int64),
        slots=torch.tensor(slots),
        block_tables=tables,
        block_size=block_size,
    )
