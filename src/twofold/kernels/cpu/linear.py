"""Products with stored weights. Shape letters: T tokens, I in, O out."""

from __future__ import annotations

from types import NotImplementedType

import torch

from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu
from twofold.models.packed import PackedMatrix
from twofold.models.weights import DenseMatrix, Matrix
from twofold.ops.linear import Linear

FEW = 8
"""Columns up to which a dense product is bound by reading the weights; for more, torch's is faster."""


@cpu(Linear)
def linear(
    ctx: CpuContext, op: Linear, x: torch.Tensor, weight: Matrix, bias: torch.Tensor | None = None
) -> torch.Tensor | NotImplementedType:
    """x [T, I] to [T, O]: packed weights are multiplied as they are stored."""
    if x.dtype != torch.float32 or not x.is_contiguous() or x.shape[-1] != op.in_features:
        return NotImplemented
    tokens, shift = x.shape[0], 0 if bias is None else bias.data_ptr()
    if type(weight) is PackedMatrix:
        y = ctx.empty(tokens, op.out_features)
        ctx.native.linear(
            ctx.stream,
            weight.addresses(),
            op.in_features,
            x.data_ptr(),
            tokens,
            shift,
            y.data_ptr(),
            weight.exact,
        )
        return y
    dense = weight.tensors["weight"] if type(weight) is DenseMatrix else None
    if dense is None or dense.dtype != torch.float32 or tokens > FEW:
        return NotImplemented
    y = ctx.empty(tokens, op.out_features)
    ctx.native.dense_linear(
        ctx.stream,
        dense.data_ptr(),
        op.out_features,
        op.in_features,
        x.data_ptr(),
        tokens,
        shift,
        y.data_ptr(),
    )
    return y
