"""Attention of a model's prompts against its I/O bound on a device: what must pass the memory, what
FlashAttention moves, what the engine counts."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.models.spec import ModelSpec
from twofold.models.weights import ACT_BYTES
from twofold.ops.attention import Attention, Span, total_spans
from twofold.ops.base import Precision
from twofold.ops.io_bound import Shape, flash_attention, flash_attention_2, lower_bound, two_products


@dataclass(frozen=True, slots=True)
class AttentionIO:
    """One layer's attention over a prompt of `context` tokens, causal; bytes.

    bound: the least, up to a constant factor; flash, flash_2: the two FlashAttentions with the whole cache to
    themselves; counted: what the engine's op reads and writes, which is everything once; flop: matrix FLOP.
    """

    context: int
    flop: float
    bound: float
    counted: float
    flash: float
    flash_2: float

    @property
    def intensity(self) -> float:
        """FLOP per byte that the bound leaves."""
        return self.flop / self.bound


def head_shape(spec: ModelSpec, context: int, *, causal: bool = True) -> Shape:
    """Attention of one KV head and the queries that share it. ValueError for an attention without heads of
    its own, or a prompt longer than the model's context."""
    if spec.latent is not None:
        raise ValueError(
            f"{spec.name} caches one latent for all heads; the bound is for keys and values per head"
        )
    if not any(spec.is_global(layer) for layer in range(spec.num_layers)):
        raise ValueError(
            f"all layers of {spec.name} see a window of {spec.window} tokens; the bound is for all pairs"
        )
    if not 1 <= context <= spec.max_context:
        raise ValueError(f"{spec.name} takes 1 to {spec.max_context:,} tokens, not {context:,}")
    return Shape(context, context, spec.head_dim, causal, spec.num_heads // spec.num_kv_heads)


def attention_io(spec: ModelSpec, precision: Precision, context: int, cache_bytes: float) -> AttentionIO:
    """A prompt of `context` tokens on a device whose cache holds `cache_bytes`."""
    shape, size, heads = head_shape(spec, context), ACT_BYTES[precision], spec.num_kv_heads
    cache = int(cache_bytes / size)
    scale = heads * size
    op = Attention(
        total_spans([Span(context, context)]),
        spec.num_heads,
        heads,
        spec.head_dim,
        spec.head_dim,
        2 * context * spec.kv_dim * size,
        precision,
        size,
    )
    return AttentionIO(
        context,
        float(shape.flop * heads),
        lower_bound(shape, cache) * scale,
        op.cost().bytes_moved,
        flash_attention(shape, cache) * scale,
        flash_attention_2(shape, cache) * scale,
    )


def over_caches(
    spec: ModelSpec, precision: Precision, context: int, *, points: int = 24
) -> dict[str, list[tuple[float, float]]]:
    """(cache bytes, bytes moved) of one layer without a mask, for caches from a sixteenth of d² elements to
    all keys of a head: the bound, both FlashAttentions, and tiled products that keep the scores in memory."""
    shape, size = head_shape(spec, context, causal=False), ACT_BYTES[precision]
    scale = spec.num_kv_heads * size
    first, last = max(5 * shape.width + 3, shape.width**2 // 16), 8 * shape.keys * shape.width
    caches = [int(first * (last / first) ** (i / (points - 1))) for i in range(points)]
    ways = {
        "I/O bound": lower_bound,
        "FlashAttention": flash_attention,
        "FlashAttention-2": flash_attention_2,
        "two tiled products": two_products,
    }
    return {name: [(float(m * size), way(shape, m) * scale) for m in caches] for name, way in ways.items()}
