"""Single attention ops on a modelled GPU: what the claims on attention kernels are set up with."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.devices.registry import make_device
from twofold.models.cache import Heads
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput
from twofold.ops.attention import Attention, Span
from twofold.ops.base import Op


def plain_attention(
    heads: int, head_dim: int, spans: Sequence[Span], kv_heads: int | None = None
) -> Attention:
    """One layer's attention of `spans` in fp16; as many KV heads as heads where none are given."""
    layer = Heads(heads, kv_heads or heads, head_dim, head_dim, head_dim**-0.5, None, None, "fp16", 2)
    return DenseCache(layer, 16).ops(step_of(spans))[1]


def step_of(spans: Sequence[Span]) -> StepInput:
    """A step of `spans` without tokens."""
    return StepInput(spans, sum(span.queries for span in spans), 0)


def op_seconds(device: str, op: Op) -> float:
    """Modelled seconds of one execution of `op`."""
    on = make_device(device)
    on.begin_step()
    on.execute(op)
    return on.end_step().seconds
