"""The inputs of a model's weight matrices when it reads a text: what every calibrated weight format learns
from.

Layer by layer, the text runs through the layer, a statistic of the inputs of each matrix is collected, and
new matrices are made from the old ones and the statistics. Where they change what the layer computes, the
text runs through it again, so that the next layer learns from the inputs that it will really get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch

from twofold.devices.base import Device, LayerT, StepCost
from twofold.kernels.reference.elementwise import activation
from twofold.models.attention import AttentionBlock
from twofold.models.layer_pass import LayerPass, text_step
from twofold.models.mlp import ExpertsBlock, MLPBlock
from twofold.models.packed import PackedMatrix
from twofold.models.transformer import Transformer, TransformerLayer
from twofold.models.weights import DenseMatrix, Matrix
from twofold.ops.base import Op
from twofold.ops.linear import ExpertMLP, Linear


class Statistic(Protocol):
    """What is collected of the inputs of one matrix."""

    def add(self, x: torch.Tensor) -> None:
        """Take in activations [tokens, in_features], float32."""


class SquaredNorms:
    """Of each input feature: the sum of its squares over all tokens. squares: [in_features]."""

    def __init__(self, in_features: int) -> None:
        self.squares = torch.zeros(in_features)

    def add(self, x: torch.Tensor) -> None:
        """Add the squares of `x`."""
        self.squares = self.squares.to(x.device) + x.square().sum(0)

    @property
    def norms(self) -> torch.Tensor:
        """The Euclidean norms, [in_features]; ones where nothing was seen (an expert that no token chose)."""
        return self.squares.sqrt() if bool(self.squares.any()) else torch.ones_like(self.squares)


class Overhearing(Device):
    """A real device that hands on the inputs of the products that it executes. heard: the statistic of each
    matrix, by id; products with other matrices are not listened to."""

    def __init__(self, device: Device, heard: dict[int, Statistic]) -> None:
        super().__init__()
        self.device, self.heard = device, heard
        self.name, self.real, self.clock, self.memory = device.name, device.real, device.clock, device.memory
        self.confidence = device.confidence

    def execute(self, op: Op, *args: Any) -> Any:
        """Execute it on the device; hand on its input first."""
        if isinstance(op, Linear):
            self._hear(args[1], args[0])
        elif isinstance(op, ExpertMLP):
            self._hear_experts(*args)
        return self.device.execute(op, *args)

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """All layers."""
        return self.device.each(layers)

    def begin_step(self) -> None:
        """Begin a step of the device's."""
        self.device.begin_step()

    def end_step(self) -> StepCost:
        """End it."""
        return self.device.end_step()

    def _hear(self, matrix: Matrix, x: torch.Tensor) -> None:
        statistic = self.heard.get(id(matrix))
        if statistic is not None and len(x):
            statistic.add(x.float())

    def _hear_experts(
        self,
        x: torch.Tensor,
        weights: torch.Tensor,
        ids: torch.Tensor,
        gate_up: list[Matrix],
        down: list[Matrix],
        function: str,
    ) -> None:
        """Each expert's matrices see the tokens that chose it."""
        del weights
        for expert, (first, second) in enumerate(zip(gate_up, down, strict=True)):
            mine = x[(ids == expert).any(-1)].float()
            self._hear(first, mine)
            if id(second) in self.heard and len(mine):
                hidden = first.prepare(mine) @ first.widen(torch.float32).T
                self._hear(
                    second, activation(hidden, function, gated=first.out_features > second.in_features)
                )


def named_matrices(layer: TransformerLayer) -> dict[str, Matrix]:
    """The matrices of `layer` that techniques store their own way, by the keys of `LearnedScheme.learned`."""
    at, found = f"layers.{layer.index}.", dict[str, Matrix]()
    if isinstance(layer.attention, AttentionBlock):
        found |= {at + "qkv": layer.attention.qkv, at + "o": layer.attention.out}
    mlp = layer.mlp
    if isinstance(mlp, ExpertsBlock):
        for name, stack in (("gate_up", mlp.gate_up), ("down", mlp.down)):
            found |= {f"{at}experts.{name}#{j}": matrix for j, matrix in enumerate(stack)}
        mlp, at = mlp.shared, at + "shared."
    if mlp is not None:
        found |= {at + "gate_up": mlp.gate_up, at + "down": mlp.down}
    return found


def learn_matrices(
    model: Transformer,
    device: Device,
    token_ids: Sequence[int],
    collect: Callable[[int], Statistic],
    learn: Callable[[str, Matrix, Any], Matrix | None],
) -> dict[str, Matrix]:
    """The matrix that `learn(key, old matrix, statistic)` makes of each matrix in the layers of `model`, by
    key.

    collect: makes an empty statistic for so many input features. Where `learn` returns a matrix, later layers
    see what that computes; where it returns None, what the old one did.
    """
    assert device.real, "calibration needs activations"
    if len(token_ids) == 0:
        raise ValueError("calibration needs text of at least one token")
    heard: dict[int, Statistic] = {}
    device = Overhearing(device, heard)
    passing = LayerPass(model, model.spec.num_layers)
    device.begin_step()
    chunks = passing.begin(text_step(model, token_ids), device)
    learned: dict[str, Matrix] = {}
    for layer in passing.layers:
        matrices = named_matrices(layer)
        heard.update({id(matrix): collect(matrix.in_features) for matrix in matrices.values()})
        before = [(stream.x, stream.delta, stream.pending) for stream, _ in chunks]
        for stream, ctx in chunks:
            layer(stream, ctx)
        new = {key: learn(key, matrix, heard[id(matrix)]) for key, matrix in matrices.items()}
        heard.clear()
        made = {key: matrix for key, matrix in new.items() if matrix is not None}
        if made:
            learned |= made
            changed = _with_matrices(layer, {id(matrices[key]): matrix for key, matrix in made.items()})
            for (stream, ctx), state in zip(chunks, before, strict=True):
                stream.x, stream.delta, stream.pending = state
                changed(stream, ctx)
    passing.end()
    device.end_step()
    return learned


def float_weight(matrix: Matrix) -> torch.Tensor:
    """The values of a matrix of the unmodified model, float32 [out, in]."""
    assert type(matrix) in (DenseMatrix, PackedMatrix), type(matrix)
    return matrix.widen(torch.float32)


def _with_matrices(layer: TransformerLayer, new: dict[int, Matrix]) -> TransformerLayer:
    """A copy of `layer` in which the matrix with id i is new[i]."""

    def of(matrix: Matrix) -> Matrix:
        return new.get(id(matrix), matrix)

    attention, mlp = layer.attention, layer.mlp
    if isinstance(attention, AttentionBlock):
        attention = replace(attention, qkv=of(attention.qkv), out=of(attention.out), _ops={})
    if isinstance(mlp, MLPBlock):
        mlp = _mlp_with(mlp, of)
    elif isinstance(mlp, ExpertsBlock):
        shared = None if mlp.shared is None else _mlp_with(mlp.shared, of)
        gate_up, down = ([of(m) for m in stack] for stack in (mlp.gate_up, mlp.down))
        mlp = replace(mlp, gate_up=gate_up, down=down, shared=shared, _ops={})
    return replace(layer, attention=attention, mlp=mlp)


def _mlp_with(mlp: MLPBlock, of: Callable[[Matrix], Matrix]) -> MLPBlock:
    return replace(mlp, gate_up=of(mlp.gate_up), down=of(mlp.down), _ops={})
