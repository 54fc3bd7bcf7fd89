"""Products of activations with stored weights: dense layers and mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from twofold.ops.base import DEVICE, Cost, Op, Precision, Traffic


@dataclass(frozen=True, slots=True)
class Linear(Op):
    """y[tokens, out] = x[tokens, in] @ W[out, in]^T (+ bias).

    format: how W is stored; weight_bytes: its stored bytes, counted by whoever packed it; compute: precision
    of the products; act_bytes: bytes of one activation element; space: memory that holds W; groups: heads
    that each have a [out/groups, in/groups] block of their own (block-diagonal W); vector_flop: elementwise
    work beside the product (widening packed weights, transforming the activations).
    """

    kind: ClassVar[str] = "linear"
    tokens: int
    in_features: int
    out_features: int
    format: str
    weight_bytes: int
    compute: Precision
    act_bytes: int
    space: str = DEVICE
    groups: int = 1
    vector_flop: int = 0

    @property
    def depth(self) -> int:
        """Products that are added up for one output."""
        return self.in_features // self.groups

    def cost(self) -> Cost:
        """2 · tokens · in · out FLOP; the weights are read once however many tokens there are."""
        return Cost(
            flop=2.0 * self.tokens * self.in_features * self.out_features / self.groups,
            vector_flop=float(self.vector_flop),
            precision=self.compute,
            traffic=(
                Traffic("weights", self.weight_bytes, 0, self.space),
                Traffic(
                    "activations",
                    self.tokens * self.in_features * self.act_bytes,
                    self.tokens * self.out_features * self.act_bytes,
                ),
            ),
        )


@dataclass(frozen=True, slots=True)
class LookUpLinear(Linear):
    """The same product from tables of partial sums: for every `mu` activations all sums of them with signs
    are made once, and each row of W, a sum of bit planes, looks up one for each plane.

    Nothing is multiplied but the sums by the scales: it has no matrix FLOP. Making tables and adding what is
    found is its `vector_flop`.
    """

    mu: int = 8

    def cost(self) -> Cost:
        """As of `Linear`, without matrix FLOP."""
        return replace(Linear.cost(self), flop=0.0)


@dataclass(frozen=True, slots=True)
class BitPlaneLinear(Linear):
    """The same product of integers of few bits, plane by plane: every bit plane of W times every bit plane of
    x, one bit an operand, shifted and added. plane_pairs: how many products of planes that are."""

    plane_pairs: int = 1

    def cost(self) -> Cost:
        """As of `Linear`, with the FLOP of all pairs of planes."""
        cost = Linear.cost(self)
        return replace(cost, flop=cost.flop * self.plane_pairs)


@dataclass(frozen=True, slots=True)
class SparseLinear(Linear):
    """The same product with a matrix that keeps only `kept` of its weights; the others are neither stored nor
    multiplied."""

    kept: int = 0

    @property
    def depth(self) -> int:
        """Of an output on average, at least one."""
        return max(1, round(self.kept / self.out_features))

    def cost(self) -> Cost:
        """As of `Linear`, with 2 · tokens · kept FLOP."""
        return replace(Linear.cost(self), flop=2.0 * self.tokens * self.kept)


@dataclass(frozen=True, slots=True)
class Route(Op):
    """Choice of `active` of `experts` per token from router logits. Returns weights [tokens, active] and
    ids."""

    kind: ClassVar[str] = "experts"
    outputs: ClassVar[int] = 2
    tokens: int
    experts: int
    active: int
    act_bytes: int

    def cost(self) -> Cost:
        """About four elementwise operations per logit (exponential, sum, divide, compare)."""
        n = self.tokens * self.experts
        out = self.tokens * self.active * (self.act_bytes + 8)
        return Cost(vector_flop=4.0 * n, traffic=(Traffic("activations", n * self.act_bytes, out),))


@dataclass(frozen=True, slots=True)
class ExpertMLP(Op):
    """The MLPs of the routed experts, each on its own tokens.

    pairs: (token, expert) products computed; touched: distinct experts whose weights are read
    (data-dependent: a prediction uses the expected number under uniform routing, see `expected_touched`);
    expert_bytes: stored bytes of one.
    """

    kind: ClassVar[str] = "experts"
    pairs: int
    touched: float
    hidden: int
    ffn: int
    matrices: int
    format: str
    expert_bytes: int
    compute: Precision
    act_bytes: int
    space: str = DEVICE

    def cost(self) -> Cost:
        """2 · hidden · ffn FLOP per matrix and (token, expert) pair; the touched experts' weights are read
        once."""
        acts = self.pairs * self.act_bytes
        return Cost(
            flop=2.0 * self.pairs * self.hidden * self.ffn * self.matrices,
            vector_flop=8.0 * self.pairs * self.ffn,
            precision=self.compute,
            traffic=(
                Traffic("weights", self.touched * self.expert_bytes, 0, self.space),
                Traffic(
                    "activations",
                    acts * (self.hidden + self.ffn),
                    acts * (self.matrices * self.ffn + self.hidden),
                ),
            ),
        )


def expected_touched(experts: int, active: int, tokens: int) -> float:
    """Expected number of distinct experts that `tokens` tokens touch when each picks `active` of `experts`
    uniformly."""
    if tokens <= 0:
        return 0.0
    return experts * (1.0 - (1.0 - active / experts) ** tokens)
