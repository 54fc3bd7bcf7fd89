"""Checkpoints that were quantised before an engine sees them: how their matrices are stored and multiplied.

Shapes only, for predictions: a real device keeps what a checkpoint really stores (`stored_weights`), or
quantises it by a technique.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from twofold.errors import nearest
from twofold.models.weights import Matrix
from twofold.ops.base import Precision
from twofold.ops.formats import FP8, Format, register


def _everywhere(name: str) -> bool:
    del name
    return True


def _blocks(name: str) -> bool:
    """The linear layers of all blocks; routers, which choose experts, stay as they are."""
    return name.startswith("layers.") and name.rpartition(".")[2] not in ("router", "shared_gate")


def _experts(name: str) -> bool:
    return ".experts." in name


@dataclass(frozen=True, slots=True)
class QuantisedCheckpoint:
    """A kind of quantised checkpoint.

    format: how its matrices are stored; multiplied: the precision of the products, for which activations are
    rounded on the way (None: weights are widened to the activations' precision, `weight-only`); holds: which
    matrices, by canonical name, are quantised; source: where that is specified.
    """

    format: Format
    multiplied: Precision | None
    holds: Callable[[str], bool]
    source: str


_BF16_SCALE = 16
_TORCHAO = "pytorch/ao, torchao.quantization: {}; every nn.Linear, as gpt-fast does"
_INT8 = register(Format("int8-channel", 8))
_INT4_32 = register(Format("int4-g32-zero", 4, 32, 2 * _BF16_SCALE))
_INT4_128 = register(Format("int4-g128-zero", 4, 128, 2 * _BF16_SCALE))
_MXFP4 = register(Format("mxfp4", 4, 32, 8, 0, "fp4"))
_NVFP4 = register(Format("nvfp4", 4, 16, 8, 32, "fp4"))

CHECKPOINTS: dict[str, QuantisedCheckpoint] = {
    "fp8": QuantisedCheckpoint(
        FP8, "fp8", _blocks, "NVIDIA ModelOpt and llm-compressor, FP8 recipes: W8A8 in E4M3, lm_head kept"
    ),
    "nvfp4": QuantisedCheckpoint(
        _NVFP4, "fp4", _blocks, "NVIDIA ModelOpt, NVFP4 recipe: W4A4, E4M3 scale per 16, lm_head kept"
    ),
    "mxfp4-experts": QuantisedCheckpoint(
        _MXFP4, None, _experts, "openai/gpt-oss model card: experts in MXFP4, the rest in BF16"
    ),
    "int8wo": QuantisedCheckpoint(
        _INT8, None, _everywhere, _TORCHAO.format("Int8WeightOnlyConfig, one scale per row")
    ),
    "int4wo-32": QuantisedCheckpoint(
        _INT4_32, None, _everywhere, _TORCHAO.format("Int4WeightOnlyConfig, BF16 scale and zero per 32")
    ),
    "int4wo-128": QuantisedCheckpoint(
        _INT4_128, None, _everywhere, _TORCHAO.format("Int4WeightOnlyConfig, BF16 scale and zero per 128")
    ),
}


class QuantisedMatrix(Matrix):
    """The shape of a matrix of a quantised checkpoint; it holds no tensors."""

    def __init__(self, kind: QuantisedCheckpoint, out_features: int, in_features: int) -> None:
        super().__init__(kind.format, out_features, in_features, {})
        self.multiplied = kind.multiplied

    def compute(self, activations: Precision) -> Precision:
        """The precision in which the checkpoint's recipe multiplies."""
        return self.multiplied or activations

    def vector_flop(self, tokens: int) -> int:
        """Elementwise operations beside the product: two per weight to widen it (code to value, scale), or
        four per activation to round it (magnitude, divide, round, clamp)."""
        if self.multiplied is None:
            return 2 * self.out_features * self.in_features
        return 4 * tokens * self.in_features


class QuantisedScheme:
    """Matrices as the quantised checkpoint called `name` stores them. ValueError where there is no such."""

    def __init__(self, name: str) -> None:
        if name not in CHECKPOINTS:
            raise ValueError(f"unknown kind of quantised checkpoint {name!r}; {nearest(name, CHECKPOINTS)}")
        self.kind = CHECKPOINTS[name]

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Whether the recipe quantises the matrix of that canonical name."""
        del out_features, in_features
        return self.kind.holds(name)

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> QuantisedMatrix:
        """The matrix's shape; nothing is rounded here."""
        assert weight is None, "quantised checkpoints are predicted from their shapes"
        return QuantisedMatrix(self.kind, out_features, in_features)
