"""Attention sublayers, written on ops: fused projections, rotation, the cache, output projection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twofold.models.cache import CacheLayer
from twofold.models.context import Context, Maybe, all_reduce
from twofold.models.parallel import Parallel
from twofold.models.spec import LatentAttention, ModelSpec
from twofold.models.weights import ACT_BYTES, Matrix
from twofold.ops import Linear, Norm, RotaryQKV
from twofold.ops.base import Precision


@dataclass(slots=True)
class AttentionBlock:
    """Fused QKV projection, norms and rotation, the cache, output projection."""

    spec: ModelSpec
    parallel: Parallel
    precision: Precision
    sliding: bool
    qkv: Matrix
    out: Matrix
    cache: CacheLayer
    qkv_bias: Maybe = None
    out_bias: Maybe = None
    q_norm: Maybe = None
    k_norm: Maybe = None
    _ops: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def matrices(self) -> list[Matrix]:
        """The stored matrices."""
        return [self.qkv, self.out]

    def vectors(self) -> list[Maybe]:
        """Biases and norms of queries and keys."""
        return [self.qkv_bias, self.out_bias, self.q_norm, self.k_norm]

    def __call__(self, x: Maybe, ctx: Context) -> Maybe:
        """[T, hidden] to [T, hidden]."""
        q, k, v = self.project(x, ctx)
        _, _, output, reduce = self._ops[ctx.step.num_tokens]
        inputs = (x, ctx.rotary) if self.cache.wants_inputs else ()
        attended = ctx.device.attend(self.cache, ctx.step, q, k, v, *inputs)
        run = ctx.device.execute
        y: Maybe = run(output, attended, self.out, self.out_bias)
        return run(reduce, y) if reduce is not None else y

    def project(self, x: Maybe, ctx: Context) -> tuple[Maybe, Maybe, Maybe]:
        """x [T, hidden] to queries [T, H, D], keys and values [T, K, D]; queries and keys are rotated."""
        tokens = ctx.step.num_tokens
        ops = self._ops.get(tokens)
        if ops is None:
            ops = self._ops[tokens] = self._make_ops(tokens)
        run = ctx.device.execute
        qkv = run(ops[0], x, self.qkv, self.qkv_bias)
        q, k, v = run(
            ops[1], qkv, ctx.step, ctx.rotary, self.sliding, self.q_norm, self.k_norm, self.spec.norm_eps
        )
        return q, k, v

    def _make_ops(self, tokens: int) -> tuple[Any, ...]:
        spec, act = self.spec, ACT_BYTES[self.precision]
        heads = self.cache.heads
        rotary = RotaryQKV(
            tokens,
            heads.heads,
            heads.kv_heads,
            spec.head_dim,
            spec.rope_dim if spec.positions == "rope" else 0,
            spec.qk_norm,
            act,
        )
        return (
            self.qkv.op(tokens, self.precision),
            rotary,
            self.out.op(tokens, self.precision),
            all_reduce(tokens, spec.hidden * act, self.parallel),
        )


@dataclass(slots=True)
class LatentAttentionBlock:
    """Multi-head latent attention with the up-projections absorbed into queries and outputs, as decoding
    engines run it.

    Only its cost is modelled: there are no real kernels for it. Source of the mechanism: DeepSeek-V2
    (arXiv:2405.04434).
    """

    spec: ModelSpec
    latent: LatentAttention
    parallel: Parallel
    precision: Precision
    cache: CacheLayer
    down: Matrix
    query_up: Matrix | None
    out: Matrix
    key_up: Matrix
    value_up: Matrix
    _ops: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def matrices(self) -> list[Matrix]:
        """The stored matrices."""
        found = [self.down, self.out, self.key_up, self.value_up]
        return found if self.query_up is None else [*found, self.query_up]

    def vectors(self) -> list[Maybe]:
        """None are held: only the cost is modelled."""
        return []

    def __call__(self, x: Maybe, ctx: Context) -> Maybe:
        """Charge the sublayer; [T, hidden] is always None."""
        assert x is None, "latent attention has no real kernels"
        tokens = ctx.step.num_tokens
        ops = self._ops.get(tokens)
        if ops is None:
            ops = self._ops[tokens] = self._make_ops(tokens)
        before, after = ops
        for op in before:
            ctx.device.execute(op)
        ctx.device.attend(self.cache, ctx.step, None, None, None)
        for op in after:
            ctx.device.execute(op)
        return None

    def _make_ops(self, tokens: int) -> tuple[Any, ...]:
        m, act, p = self.latent, ACT_BYTES[self.precision], self.precision
        heads = self.cache.heads.heads
        before: list[Any] = [self.down.op(tokens, p), Norm(tokens, m.kv_rank, "rms", act)]
        if self.query_up is not None:
            before += [Norm(tokens, m.q_rank, "rms", act), self.query_up.op(tokens, p)]
        before += [
            RotaryQKV(tokens, heads, 1, m.rope_dim, m.rope_dim, False, act),
            per_head(self.key_up, tokens, heads, p),
        ]
        after: list[Any] = [per_head(self.value_up, tokens, heads, p), self.out.op(tokens, p)]
        if (reduce := all_reduce(tokens, self.spec.hidden * act, self.parallel)) is not None:
            after.append(reduce)
        return before, after


def per_head(matrix: Matrix, tokens: int, heads: int, precision: Precision) -> Linear:
    """The product in which each head has its own block of `matrix` ([heads · out, in] stored)."""
    op = matrix.op(tokens, precision)
    return Linear(
        tokens,
        matrix.in_features * heads,
        matrix.out_features,
        op.format,
        op.weight_bytes,
        op.compute,
        op.act_bytes,
        op.space,
        heads,
    )
