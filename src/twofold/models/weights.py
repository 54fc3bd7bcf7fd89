"""Weight matrices as they lie in memory, and the seam through which a technique changes how they are stored.

A `Matrix` is what a `Linear` op multiplies by: its stored tensors (none on a modelled device), the bytes they
take, and how to widen them. A `WeightScheme` turns a float matrix into a `Matrix`; techniques with the
weights seam provide one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from twofold.ops.base import DEVICE, Precision
from twofold.ops.formats import Format
from twofold.ops.linear import Linear

if TYPE_CHECKING:
    from twofold.kernels.cpu.pairs import PairStrips
    from twofold.kernels.cpu.planes import Planes
    from twofold.kernels.cpu.strips import Strips

ACT_BYTES: dict[Precision, int] = {"fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
TORCH_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Matrix:
    """A stored [out_features, in_features] matrix.

    tensors: what is allocated, by part (codes, scales …); empty where a modelled device holds only the shape.
    strips: how native CPU kernels multiply by it, where `interleave` found a way.
    """

    strips: Strips | Planes | PairStrips | None = None

    def __init__(
        self,
        fmt: Format,
        out_features: int,
        in_features: int,
        tensors: Mapping[str, torch.Tensor],
        space: str = DEVICE,
    ) -> None:
        self.format = fmt
        self.out_features = out_features
        self.in_features = in_features
        self.tensors = dict(tensors)
        self.space = space

    @property
    def nbytes(self) -> int:
        """Bytes as counted from the format: what a prediction uses."""
        return self.format.nbytes(self.out_features, self.in_features)

    @property
    def allocated(self) -> int:
        """Bytes of the tensors that are really held (0 on a modelled device)."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix as a dense [out_features, in_features] tensor of `dtype`."""
        raise NotImplementedError(f"{type(self).__name__} cannot be widened")

    def interleave(self) -> None:
        """Lay the tensors out for native CPU kernels, where they have a layout for this format; in the same
        bytes, for the same values. Here: they have none."""

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """Activations [tokens, in_features] as the product wants them (rotated, quantised …); here
        unchanged."""
        return x

    def compute(self, activations: Precision) -> Precision:
        """Precision of the products when activations come in `activations`."""
        return activations

    def vector_flop(self, tokens: int) -> int:
        """Elementwise operations of one product beside the FLOP of the product itself."""
        del tokens
        return 0

    def op(self, tokens: int, activations: Precision) -> Linear:
        """The op that multiplies `tokens` rows by this matrix."""
        return Linear(
            tokens,
            self.in_features,
            self.out_features,
            self.format.name,
            self.nbytes,
            self.compute(activations),
            ACT_BYTES[activations],
            self.space,
            1,
            self.vector_flop(tokens),
        )


class DenseMatrix(Matrix):
    """An unpacked matrix: one tensor in a float format."""

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The stored tensor, converted only where `dtype` differs."""
        return self.tensors["weight"].to(dtype)


class WeightScheme(Protocol):
    """How weight matrices are stored. Technique seam."""

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Whether the matrix of that canonical name (models.tensors) is stored by this scheme; others stay
        dense."""

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> Matrix:
        """The packed matrix of `weight` (float32 [out, in]); None makes one without tensors, for modelled
        devices."""


@runtime_checkable
class LearnedScheme(WeightScheme, Protocol):
    """A scheme whose matrices were made beforehand, while it was calibrated on the unmodified model."""

    def learned(self, key: str) -> Matrix | None:
        """The matrix called `key`: its canonical name, with `#j` behind it for entry j of a stack of experts.
        None where nothing was learned: `pack` makes it then."""

    def vector(self, name: str) -> torch.Tensor | None:
        """What replaces the vector of that canonical name (a norm's weight, say) in the model, float32; None
        where it stays."""


class DenseScheme:
    """All matrices in one float format: the default."""

    def __init__(self, fmt: Format, dtype: torch.dtype) -> None:
        self.format = fmt
        self.dtype = dtype

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Every matrix can be dense."""
        del name, out_features, in_features
        return True

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> Matrix:
        """The matrix in the scheme's dtype, contiguous."""
        tensors = {} if weight is None else {"weight": weight.to(self.dtype).contiguous()}
        return DenseMatrix(self.format, out_features, in_features, tensors)
