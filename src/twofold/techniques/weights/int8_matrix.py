"""8-bit weights times 8-bit activations: one scale per row of the weights (or for all rows), one per token's
activations (or for all tokens).

A row's scale is stored with every 128 of its weights, where native kernels expect it: 8.125 bits a weight.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from twofold.kernels.cpu.strips import TokenRounding
from twofold.ops.base import Precision
from twofold.ops.formats import INT8, Format, register
from twofold.techniques.weights.block_formats import block_format
from twofold.techniques.weights.block_matrix import BlockMatrix

_STRIPS = block_format("int8-g128")
_ROWS = register(Format("int8-rows", 8, 128, 16, matmul="int8"))
_LARGEST = 127.0


class TokenInt8:
    """Activations in int8 codes -127 … 127 with one scale per token: `scale`, or if that is 0 the token's
    largest magnitude over 127."""

    format = INT8

    def __init__(self, scale: float = 0.0) -> None:
        self.rounding = TokenRounding(scale)

    def round(self, x: torch.Tensor, *, per_row: bool = True) -> torch.Tensor:
        """`x` [..., in_features] rounded, float32."""
        assert per_row, "a request's output must not depend on what it is batched with"
        given = self.rounding.scale
        scale = x.abs().amax(-1, keepdim=True) / _LARGEST if given == 0 else torch.full((1,), given)
        inverse = torch.where(scale > 0, 1.0 / scale, 0.0)
        return (x * inverse).clamp_(-_LARGEST, _LARGEST).round_() * scale


class Int8Matrix(BlockMatrix):
    """A matrix in int8 whose products take activations in int8."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        tensors: Mapping[str, torch.Tensor],
        activations: TokenInt8,
        counters: dict[str, int],
    ) -> None:
        super().__init__(
            _STRIPS, out_features, in_features, tensors, activations=activations, counters=counters
        )
        self.format = _ROWS

    def compute(self, activations: Precision) -> Precision:
        """int8, whatever comes in."""
        del activations
        return "int8"

    def vector_flop(self, tokens: int) -> int:
        """Four operations to round an activation, two for each output (the scales of row and token)."""
        return 4 * tokens * self.in_features + 2 * tokens * self.out_features


def pack_rows(weight: torch.Tensor, *, per_tensor: bool) -> dict[str, torch.Tensor]:
    """`weight` [out, in] as the tensors of an Int8Matrix: one scale a row, or one for the whole matrix."""
    largest = weight.abs().amax(1, keepdim=True)
    if per_tensor:
        largest = largest.amax().expand_as(largest)
    groups = -(-weight.shape[1] // _STRIPS.block)
    scales = _STRIPS.scale.choose(largest.expand(-1, groups).contiguous(), _LARGEST)
    factors = _STRIPS.scale.factors(scales)[:, :1]
    values = _STRIPS.element.round(weight / torch.where(factors == 0, float("inf"), factors))
    return _STRIPS.store(values, scales)
