"""Which module of a model an op belongs to: for breakdowns finer than kinds of ops."""

from __future__ import annotations

from typing import Any

from twofold.models.attention import AttentionBlock
from twofold.models.mlp import ExpertsBlock, MLPBlock
from twofold.models.transformer import Transformer
from twofold.ops import Activate, Embedding, ExpertMLP, Linear, Route, Sample, SigmoidGate, Softcap
from twofold.ops.attention import Attention, CacheWrite
from twofold.ops.base import Op
from twofold.ops.elementwise import Add, AddNorm, Gather, Norm, Pool, RotaryQKV
from twofold.ops.movement import Collective, Copy

HOST = "host"
"""What a step takes besides its ops."""

_BY_TYPE: dict[type[Op], str] = {
    Embedding: "embedding",
    Norm: "norms and residuals",
    AddNorm: "norms and residuals",
    Add: "norms and residuals",
    Gather: "norms and residuals",
    Pool: "norms and residuals",
    RotaryQKV: "rotary",
    CacheWrite: "cache write",
    Attention: "attention",
    Activate: "mlp activation",
    SigmoidGate: "mlp activation",
    Route: "router",
    ExpertMLP: "experts",
    Softcap: "lm head",
    Sample: "sampling",
    Copy: "copies",
}

MODULES = (
    "embedding",
    "norms and residuals",
    "qkv",
    "rotary",
    "cache write",
    "attention",
    "attention output",
    "router",
    "experts",
    "mlp up",
    "mlp activation",
    "mlp down",
    "lm head",
    "sampling",
    "communication",
    "copies",
    HOST,
)
"""Modules in the order of the forward pass; a technique's own ops come after them, by their kind."""


class ModuleNames:
    """Names ops by module: products by the matrix that they are executed with, all others by their type."""

    def __init__(self, model: Transformer) -> None:
        self._by_matrix: dict[int, str] = {id(model.head): "lm head"}
        for layer in model.layers:
            if isinstance(layer.attention, AttentionBlock):
                self._name(layer.attention.qkv, "qkv")
                self._name(layer.attention.out, "attention output")
            if isinstance(layer.mlp, ExpertsBlock):
                self._name(layer.mlp.router, "router")
                if layer.mlp.shared_gate is not None:
                    self._name(layer.mlp.shared_gate, "router")
            mlp = layer.mlp.shared if isinstance(layer.mlp, ExpertsBlock) else layer.mlp
            if isinstance(mlp, MLPBlock):
                self._name(mlp.gate_up, "mlp up")
                self._name(mlp.down, "mlp down")

    def __call__(self, op: Op, args: tuple[Any, ...]) -> str:
        """The module of `op`, executed with `args`."""
        if isinstance(op, Collective):
            return "communication"
        if isinstance(op, Linear):
            names = (self._by_matrix[id(arg)] for arg in args if id(arg) in self._by_matrix)
            return next(names, "qkv" if not args else op.kind)  # latent attention's products have no matrices
        return _BY_TYPE.get(type(op), op.kind)

    def _name(self, matrix: object, name: str) -> None:
        self._by_matrix[id(matrix)] = name


def in_order(seconds: dict[str, float]) -> dict[str, float]:
    """The same, in the order of the forward pass."""
    known = [name for name in MODULES if name in seconds]
    return {name: seconds[name] for name in [*known, *(n for n in seconds if n not in MODULES)]}
