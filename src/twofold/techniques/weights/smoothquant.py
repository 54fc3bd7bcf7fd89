"""SmoothQuant: outliers of activations are scaled down at the expense of the weights, so that both fit 8
bits.

Source: "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
arXiv:2211.10438, and github.com/mit-han-lab/smoothquant: activations of feature j are divided by s_j =
max|X_j|^alpha / max|W_j|^(1 - alpha), and the columns of the weights are multiplied by it. The division is
folded into the norm before the matrix, so that it costs nothing at run time. As in the source, this holds for
Q, K, V and for gate and up; the output and down projections, which no norm precedes, are quantised as they
are. Differs: the activations of all products are int8 (the source leaves some in fp16); scales of weights are
bfloat16; static scales come from one text of a few hundred tokens (there 512 sentences); norms before routers
stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch

from twofold.devices.base import Device
from twofold.errors import nearest
from twofold.models.mlp import MLPBlock
from twofold.models.transformer import Transformer, TransformerLayer
from twofold.models.weights import Matrix
from twofold.techniques.base import Info
from twofold.techniques.weights.inputs import float_weight, learn_matrices
from twofold.techniques.weights.int8_matrix import Int8Matrix, TokenInt8, pack_rows
from twofold.techniques.weights.learned import Calibrated, Learned
from twofold.techniques.weights.linear_layers import BlockLinears

WEIGHTS = ("per_channel", "per_tensor")
ACTIVATIONS = ("per_token", "per_tensor")
_LEAST = 1e-5  # smallest magnitude to divide by, as in the source's code


class Magnitudes:
    """Of each input feature: its largest magnitude over all tokens. largest: [in_features]."""

    def __init__(self, in_features: int) -> None:
        self.largest = torch.zeros(in_features)

    def add(self, x: torch.Tensor) -> None:
        """Take in activations [tokens, in_features]."""
        self.largest = torch.maximum(self.largest.to(x.device), x.abs().amax(0))


class Smoothed(NamedTuple):
    """Packed tensors of a matrix, and the largest magnitude of its inputs."""

    tensors: dict[str, torch.Tensor]
    out_features: int
    in_features: int
    largest: float


@dataclass(frozen=True)
class SmoothQuant(Calibrated):
    """alpha: how much of the range moves from activations to weights (1: all of it). weights: one scale per
    row ("per_channel") or per matrix ("per_tensor"). activations: one scale per token ("per_token") or one
    from the calibration text ("per_tensor").
    """

    alpha: float = 0.5
    weights: str = "per_channel"
    activations: str = "per_token"

    info: ClassVar[Info] = Info(
        name="smoothquant",
        title="SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
        source="arXiv:2211.10438",
        summary="multiplies 8-bit weights by 8-bit activations, whose outliers were moved into the weights",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"{where}: alpha must lie between 0 and 1, not {self.alpha}")
        for name, value, allowed in (
            ("weights", self.weights, WEIGHTS),
            ("activations", self.activations, ACTIVATIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{where}: {name}: {value!r} is unknown; {nearest(value, allowed)}")

    def weight_scheme(self) -> Learned:
        """Linear layers of all blocks in int8: as calibrated, else without smoothing."""
        scheme = _Int8Scheme(self)
        smoothed, norms = self.calibration or ({}, {})
        matrices = {key: scheme.matrix(found) for key, found in smoothed.items()}
        return Learned(scheme, scheme.counters, matrices, norms)

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with scales for the activations when `model` reads `token_ids`."""
        matrices: dict[str, Smoothed] = {}
        norms: dict[str, torch.Tensor] = {}
        layers = {layer.index: layer for layer in model.layers}

        def learn(key: str, matrix: Matrix, magnitudes: Magnitudes) -> None:
            weight, largest = float_weight(matrix), magnitudes.largest
            name = _norm_before(key, layers[int(key.split(".")[1])])
            if name is not None:
                scales = self._scales(largest, weight)
                weight, largest = weight * scales, largest / scales
                _divide(norms, name, layers[int(key.split(".")[1])], scales)
            tensors = pack_rows(weight, per_tensor=self.weights == "per_tensor")
            top = float(largest.max())
            matrices[key] = Smoothed(tensors, matrix.out_features, matrix.in_features, top)

        learn_matrices(model, device, token_ids, Magnitudes, learn)
        return self.with_calibration((matrices, norms))

    def _scales(self, largest: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """s [in_features] for inputs of those largest magnitudes and `weight` [out, in]."""
        columns = weight.abs().amax(0).clamp(min=_LEAST)
        return (largest.clamp(min=_LEAST).pow(self.alpha) / columns.pow(1 - self.alpha)).clamp(min=_LEAST)


class _Int8Scheme(BlockLinears):
    """Linear layers of all blocks in int8. counters: "products": how often one was multiplied."""

    def __init__(self, technique: SmoothQuant) -> None:
        self.technique = technique
        self.counters = {"products": 0}

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> Int8Matrix:
        """The matrix without smoothing; activations get one scale per token."""
        per_tensor = self.technique.weights == "per_tensor"
        tensors = {} if weight is None else pack_rows(weight.float(), per_tensor=per_tensor)
        return Int8Matrix(out_features, in_features, tensors, TokenInt8(), self.counters)

    def matrix(self, found: Smoothed) -> Int8Matrix:
        """The matrix as it was calibrated."""
        static = self.technique.activations == "per_tensor"
        activations = TokenInt8(found.largest / 127.0 if static else 0.0)
        return Int8Matrix(found.out_features, found.in_features, found.tensors, activations, self.counters)


def _norm_before(key: str, layer: TransformerLayer) -> str | None:
    """The norm whose output is all that the matrix multiplies, and that nothing else reads."""
    if key.endswith(".qkv"):
        return f"layers.{layer.index}.attn_norm"
    if isinstance(layer.mlp, MLPBlock) and key.endswith(".gate_up"):
        return f"layers.{layer.index}.mlp_norm"
    return None


def _divide(norms: dict[str, torch.Tensor], name: str, layer: TransformerLayer, scales: torch.Tensor) -> None:
    """Enter the norm's vectors, divided by `scales`, into `norms`."""
    norm = layer.attention_norm if name.endswith("attn_norm") else layer.mlp_norm
    for part, vector in (("", norm.weight), ("_bias", norm.bias)):
        if vector is not None:
            norms[name + part] = vector.float() / scales
