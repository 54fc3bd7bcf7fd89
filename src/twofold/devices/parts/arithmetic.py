"""The arithmetic of ops that touch each activation a few times, in additions and multiplications."""

from __future__ import annotations

from twofold.devices.parts.vector_unit import (
    ADD,
    GELU,
    MUL,
    SIGMOID,
    SILU,
    TANH,
    Arithmetic,
    norm,
    softmax,
)
from twofold.errors import nearest
from twofold.ops import (
    Activate,
    Add,
    AddNorm,
    Embedding,
    Gather,
    Norm,
    Op,
    Pool,
    RotaryQKV,
    Route,
    Sample,
    SigmoidGate,
    Softcap,
)

NONE = Arithmetic(0, 0, 0)
FUNCTIONS = {
    "gelu": GELU,
    "gelu_tanh": GELU,
    "silu": SILU,
    "relu": ADD,
}
"""Activation functions by the name that `Activate` gives them."""


def arithmetic_of(op: Op) -> Arithmetic | None:
    """What `op` takes beside moving data; None for an op that is not of this kind.

    ValueError for an activation function whose arithmetic is not known.
    """
    match op:
        case AddNorm():
            return (ADD * op.width).then(norm(op.width, centred=op.norm == "layer")) * op.tokens
        case Norm():
            return norm(op.width, centred=op.norm == "layer") * op.tokens
        case Add():
            return ADD * (op.width * op.tokens)
        case Activate():
            return _activation(op) * op.tokens
        case SigmoidGate():
            return (SIGMOID * op.tokens).then(MUL * (op.tokens * op.width))
        case RotaryQKV():
            return _rotation(op) * op.tokens
        case Embedding():
            return ADD * (op.width * (op.tables - 1) * op.tokens)
        case Gather():
            return NONE
        case Pool():
            return ADD * (op.rows * op.width)
        case Softcap():
            return MUL.then(TANH).then(MUL) * (op.vocab * op.rows)
        case Sample():
            return ADD * (op.vocab * op.rows)
        case Route():
            return softmax(op.experts).then(ADD * (op.experts * op.active)) * op.tokens
    return None


def elements_of(op: Op) -> int:
    """Numbers that an op of which `arithmetic_of` knows the arithmetic makes, or looks through."""
    match op:
        case AddNorm() | Norm() | Add() | Activate() | SigmoidGate() | Embedding():
            return op.tokens * op.width
        case RotaryQKV():
            return op.tokens * (op.heads + op.kv_heads) * op.head_dim
        case Pool():
            return op.rows * op.width
        case Softcap() | Sample():
            return op.vocab * op.rows
        case Route():
            return op.tokens * op.experts
    raise AssertionError(f"no arithmetic of {type(op).__name__}")


def _activation(op: Activate) -> Arithmetic:
    if op.function not in FUNCTIONS:
        raise ValueError(
            f"no arithmetic is known for activation {op.function!r}; {nearest(op.function, FUNCTIONS)}"
        )
    each = FUNCTIONS[op.function]
    return (each.then(MUL) if op.gated else each) * op.width


def _rotation(op: RotaryQKV) -> Arithmetic:
    """Two products and a sum per rotated element, and a norm per head where the model has one."""
    heads = op.heads + op.kv_heads
    work = Arithmetic(2, 1, 2) * (heads * op.rotated) if op.rotated else NONE
    return work.then(norm(op.head_dim, centred=False) * heads) if op.qk_norm else work
