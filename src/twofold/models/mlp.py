"""MLP sublayers, written on ops: dense ones and mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from twofold.models.context import Context, Maybe, all_reduce
from twofold.models.parallel import Parallel
from twofold.models.spec import ModelSpec
from twofold.models.weights import ACT_BYTES, Matrix
from twofold.ops import Activate, Add, AllToAll, ExpertMLP, Route, SigmoidGate, expected_touched
from twofold.ops.base import Precision


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
        logits_op, route, dispatch, experts, gate_op, gating, add, reduce = ops
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
                shared = run(gating, shared, run(gate_op, x, self.shared_gate))
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
            SigmoidGate(tokens, spec.hidden, act),
            Add(tokens, spec.hidden, act),
            all_reduce(tokens, spec.hidden * act, cut),
        )
