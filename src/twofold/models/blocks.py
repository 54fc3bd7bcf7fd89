"""The sublayers of a transformer layer, written on ops: attention and MLPs. Each holds its own weights.

On a modelled device the same code runs with None in place of every tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from twofold.devices.base import Device
from twofold.models.cache import CacheLayer
from twofold.models.parallel import Parallel
from twofold.models.spec import LatentAttention, ModelSpec
from twofold.models.step import StepInput
from twofold.models.weights import ACT_BYTES, Matrix
from twofold.ops import (
    Activate,
    Add,
    AllReduce,
    AllToAll,
    ExpertMLP,
    Linear,
    Norm,
    RotaryQKV,
    Route,
    expected_touched,
)
from twofold.ops.base import Precision

Maybe = torch.Tensor | None


@dataclass(slots=True)
class NormWeights:
    """Weight and, for LayerNorm, bias: [width] each; None on modelled devices."""

    weight: Maybe = None
    bias: Maybe = None


@dataclass(slots=True)
class Rotation:
    """cos and sin of the step's positions for the global and for the sliding layers."""

    tables: tuple[tuple[Maybe, Maybe], tuple[Maybe, Maybe]] = ((None, None), (None, None))


@dataclass(slots=True)
class Context:
    """What every sublayer needs of the step: the device, the batch and the rotation of its positions."""

    device: Device
    step: StepInput
    rotation: Rotation


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
        attended = self.cache.attend(ctx.device, ctx.step, q, k, v)
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
        cos, sin = ctx.rotation.tables[1 if self.sliding else 0]
        qkv = run(ops[0], x, self.qkv, self.qkv_bias)
        q, k, v = run(ops[1], qkv, cos, sin, self.q_norm, self.k_norm, self.spec.norm_eps)
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
        self.cache.attend(ctx.device, ctx.step, None, None, None)
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


@dataclass(slots=True)
class MLPBlock:
    """Fused gate and up projection, activation, down projection."""

    spec: ModelSpec
    parallel: Parallel
    precision: Precision
    gate_up: Matrix
    down: Matrix
    gate_up_bias: Maybe = None
    down_bias: Maybe = None
    reduce: bool = True
    _ops: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def matrices(self) -> list[Matrix]:
        """The stored matrices."""
        return [self.gate_up, self.down]

    def vectors(self) -> list[Maybe]:
        """Biases."""
        return [self.gate_up_bias, self.down_bias]

    def __call__(self, x: Maybe, ctx: Context) -> Maybe:
        """[T, hidden] to [T, hidden]."""
        tokens = ctx.step.num_tokens
        ops = self._ops.get(tokens)
        if ops is None:
            ops = self._ops[tokens] = self._make_ops(tokens)
        up, act, down, reduce = ops
        run = ctx.device.execute
        y: Maybe = run(down, run(act, run(up, x, self.gate_up, self.gate_up_bias)), self.down, self.down_bias)
        return run(reduce, y) if reduce is not None else y

    def _make_ops(self, tokens: int) -> tuple[Any, ...]:
        spec, act = self.spec, ACT_BYTES[self.precision]
        activate = Activate(tokens, self.down.in_features, spec.activation, spec.gated, act)
        reduce = all_reduce(tokens, spec.hidden * act, self.parallel) if self.reduce else None
        return self.gate_up.op(tokens, self.precision), activate, self.down.op(tokens, self.precision), reduce


@dataclass(slots=True)
class ExpertsBlock:
    """Router, routed experts and, where there is one, the shared expert."""

    spec: ModelSpec
    parallel: Parallel
    precision: Precision
    router: Matrix
    gate_up: list[Matrix]
    down: list[Matrix]
    num_local: int
    shared: MLPBlock | None = None
    shared_gate: Matrix | None = None
    _ops: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    def matrices(self) -> list[Matrix]:
        """The stored matrices, each expert's counted."""
        copies = 1 if len(self.gate_up) == self.num_local else self.num_local
        found = [self.router, *self.gate_up * copies, *self.down * copies]
        if self.shared is not None:
            found += self.shared.matrices()
        return found if self.shared_gate is None else [*found, self.shared_gate]

    def vectors(self) -> list[Maybe]:
        """Biases of the shared expert."""
        return self.shared.vectors() if self.shared is not None else []

    def __call__(self, x: Maybe, ctx: Context) -> Maybe:
        """[T, hidden] to [T, hidden]."""
        tokens = ctx.step.num_tokens
        ops = self._ops.get(tokens)
        if ops is None:
            ops = self._ops[tokens] = self._make_ops(tokens)
        logits_op, route, dispatch, experts, gate_op, add, reduce = ops
        e = self.spec.experts
        assert e is not None
        run = ctx.device.execute
        logits = run(logits_op, x, self.router)
        weights, ids = run(route, logits, e.scoring, e.normalize, e.scale)
        if dispatch is not None:
            run(dispatch)
        y: Maybe = run(experts, x, weights, ids, self.gate_up, self.down, self.spec.activation)
        if dispatch is not None:
            run(dispatch)
        if self.shared is not None:
            shared = self.shared(x, ctx)
            if gate_op is not None:
                gate = run(gate_op, x, self.shared_gate)
                shared = None if shared is None else shared * torch.sigmoid(gate)
            y = run(add, y, shared)
        return run(reduce, y) if reduce is not None else y

    def _make_ops(self, tokens: int) -> tuple[Any, ...]:
        spec, act, e, cut = self.spec, ACT_BYTES[self.precision], self.spec.experts, self.parallel
        assert e is not None
        exchange = cut.ep > cut.tp
        # Over all replicas each device serves the tokens of `dp` batches, but only 1/ep of the experts.
        everyone = tokens * (cut.dp if exchange else 1)
        sharing = cut.ep if cut.ep > 1 else 1
        touched = expected_touched(e.num, e.active, everyone) / sharing
        first, second = self.gate_up[0], self.down[0]
        experts = ExpertMLP(
            max(1, round(everyone * e.active / sharing)),
            touched,
            spec.hidden,
            second.in_features,
            3 if spec.gated else 2,
            first.format.name,
            first.nbytes + second.nbytes,
            first.compute(self.precision),
            act,
            first.space,
        )
        dispatch = AllToAll(tokens * e.active * spec.hidden * act, cut.ep, "ep") if exchange else None
        gate = None if self.shared_gate is None else self.shared_gate.op(tokens, self.precision)
        return (
            self.router.op(tokens, self.precision),
            Route(tokens, e.num, e.active, act),
            dispatch,
            experts,
            gate,
            Add(tokens, spec.hidden, act),
            all_reduce(tokens, spec.hidden * act, cut),
        )


def all_reduce(tokens: int, width_bytes: int, parallel: Parallel) -> AllReduce | None:
    """The sum over a tensor-parallel group after a row-cut product, or None on one device."""
    return AllReduce(tokens * width_bytes, parallel.tp, "tp") if parallel.tp > 1 else None
