"""Attention and storing of new entries by native kernels, for the cache layers that have some."""

from __future__ import annotations

from typing import Any

import torch

from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu
from twofold.models.cache import CacheLayer
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, CacheWrite


@cpu(CacheWrite)
def cache_write(
    ctx: CpuContext, op: CacheWrite, cache: CacheLayer, step: StepInput, k: torch.Tensor, v: torch.Tensor
) -> Any:
    """Store k, v [T, K, D] in the cache's way."""
    return cache.write_native(ctx, step, k, v)


@cpu(Attention)
def attention(
    ctx: CpuContext, op: Attention, q: torch.Tensor, cache: CacheLayer, step: StepInput, *new: torch.Tensor
) -> Any:
    """q [T, H, D] to [T, H · v_dim], for all sequences of the step at once."""
    return cache.attend_native(ctx, op, q, step, *new)
