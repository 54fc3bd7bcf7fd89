"""Ops that touch each activation a few times: embedding, norms, rotation, activation functions, residual
sums, the choice of rows that want logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from twofold.ops.base import Cost, Op, Traffic


def _elementwise(read: float, written: float, flop: float) -> Cost:
    return Cost(vector_flop=flop, traffic=(Traffic("activations", read, written),))


@dataclass(frozen=True, slots=True)
class Embedding(Op):
    """Rows of the embedding table (and of the position table, where there is one) by token id: [tokens,
    width]."""

    kind: ClassVar[str] = "embedding"
    tokens: int
    width: int
    row_bytes: int
    act_bytes: int
    tables: int = 1

    def cost(self) -> Cost:
        """One stored row read per token and table."""
        return Cost(
            vector_flop=float(self.tokens * self.width * self.tables),
            traffic=(
                Traffic("weights", self.tokens * self.row_bytes * self.tables),
                Traffic("activations", 0, self.tokens * self.width * self.act_bytes),
            ),
        )


@dataclass(frozen=True, slots=True)
class Norm(Op):
    """RMSNorm or LayerNorm over the last dimension of [tokens, width]."""

    kind: ClassVar[str] = "norm"
    tokens: int
    width: int
    norm: Literal["rms", "layer"]
    act_bytes: int

    def cost(self) -> Cost:
        """Square, sum, scale, weight (RMS: 4 per element; LayerNorm subtracts a mean and adds a bias: 7)."""
        n = self.tokens * self.width
        return _elementwise(n * self.act_bytes, n * self.act_bytes, n * (4.0 if self.norm == "rms" else 7.0))


@dataclass(frozen=True, slots=True)
class AddNorm(Op):
    """sum = x + delta, then a norm of the sum. Returns (normed, sum): the residual stream in one pass."""

    kind: ClassVar[str] = "norm"
    outputs: ClassVar[int] = 2
    tokens: int
    width: int
    norm: Literal["rms", "layer"]
    act_bytes: int

    def cost(self) -> Cost:
        """A norm with one more addition, one more operand read and one more written."""
        n = self.tokens * self.width
        flop = n * (5.0 if self.norm == "rms" else 8.0)
        return _elementwise(2 * n * self.act_bytes, 2 * n * self.act_bytes, flop)


@dataclass(frozen=True, slots=True)
class RotaryQKV(Op):
    """Split fused projections [tokens, (heads + 2·kv_heads)·dim] into q, k, v, norm q and k where the model
    does, and rotate the first `rotated` elements of each q and k head by position (0 = learned positions:
    split only)."""

    kind: ClassVar[str] = "rotary"
    outputs: ClassVar[int] = 3
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    rotated: int
    qk_norm: bool
    act_bytes: int

    def cost(self) -> Cost:
        """Rotation: 3 operations per rotated element; the norms: 4 per element."""
        qk = self.tokens * (self.heads + self.kv_heads)
        total = self.tokens * (self.heads + 2 * self.kv_heads) * self.head_dim * self.act_bytes
        flop = qk * (3.0 * self.rotated + (4.0 * self.head_dim if self.qk_norm else 0.0))
        return _elementwise(total, total, flop)


@dataclass(frozen=True, slots=True)
class Activate(Op):
    """The MLP's activation on [tokens, width]: act(gate) · up on a fused [tokens, 2·width], or act(up)
    alone."""

    kind: ClassVar[str] = "activation"
    tokens: int
    width: int
    function: str
    gated: bool
    act_bytes: int

    def cost(self) -> Cost:
        """About 6 operations per activation function, one more for the gate's product."""
        n = self.tokens * self.width
        inputs = n * (2 if self.gated else 1)
        return _elementwise(inputs * self.act_bytes, n * self.act_bytes, n * (7.0 if self.gated else 6.0))


@dataclass(frozen=True, slots=True)
class Add(Op):
    """Sum of two [tokens, width] activations."""

    kind: ClassVar[str] = "norm"
    tokens: int
    width: int
    act_bytes: int

    def cost(self) -> Cost:
        """One addition per element."""
        n = self.tokens * self.width
        return _elementwise(2 * n * self.act_bytes, n * self.act_bytes, float(n))


@dataclass(frozen=True, slots=True)
class Gather(Op):
    """`rows` chosen rows of [tokens, width] activations: those that want logits."""

    kind: ClassVar[str] = "norm"
    rows: int
    width: int
    act_bytes: int

    def cost(self) -> Cost:
        """Each chosen row read and written once."""
        n = self.rows * self.width
        return _elementwise(n * self.act_bytes, n * self.act_bytes, 0.0)


@dataclass(frozen=True, slots=True)
class Pool(Op):
    """Sums over the rows of each of `seqs` sequences, of activations [rows, width]: float32 [seqs, width]."""

    kind: ClassVar[str] = "norm"
    rows: int
    width: int
    seqs: int
    act_bytes: int

    def cost(self) -> Cost:
        """Each row read and added once."""
        n = self.rows * self.width
        return _elementwise(n * self.act_bytes, self.seqs * self.width * 4, float(n))


@dataclass(frozen=True, slots=True)
class SigmoidGate(Op):
    """sigmoid(gate) · y for [tokens, width] activations and one gate per token."""

    kind: ClassVar[str] = "activation"
    tokens: int
    width: int
    act_bytes: int

    def cost(self) -> Cost:
        """One product per element, about 4 operations per gate."""
        n = self.tokens * self.width
        return _elementwise(
            (n + self.tokens) * self.act_bytes, n * self.act_bytes, float(n + 4 * self.tokens)
        )


@dataclass(frozen=True, slots=True)
class Softcap(Op):
    """cap · tanh(x / cap) of `rows` logit vectors of width `vocab`, in float32."""

    kind: ClassVar[str] = "activation"
    rows: int
    vocab: int

    def cost(self) -> Cost:
        """About 6 operations for the hyperbolic tangent, a division and a product."""
        n = self.rows * self.vocab
        return _elementwise(4 * n, 4 * n, 8.0 * n)


@dataclass(frozen=True, slots=True)
class Sample(Op):
    """Choice of a token from each of `rows` logit vectors of width `vocab` (float32)."""

    kind: ClassVar[str] = "sample"
    rows: int
    vocab: int

    def cost(self) -> Cost:
        """Three passes of elementwise work: scale, exponential, compare."""
        n = self.rows * self.vocab
        return _elementwise(4 * n, 8 * self.rows, 3.0 * n)
