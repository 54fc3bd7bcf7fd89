"""Products with stored weights. Shape letters: T tokens, I in, O out."""

from __future__ import annotations

from types import NotImplementedType

import torch

from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.cpu.pairs import PairStrips
from twofold.kernels.cpu.planes import Planes
from twofold.kernels.cpu.strips import Rounding, Strips, TokenRounding
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
    if isinstance(weight.strips, Planes | PairStrips):
        return weight.strips.product(ctx, x, shift)
    if weight.strips is not None:
        return _strip_product(ctx, op, x, weight.strips, shift)
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


def _strip_product(ctx: CpuContext, op: Linear, x: torch.Tensor, w: Strips, bias: int) -> torch.Tensor:
    """x, rotated and rounded as `w` asks for, times `w`, plus the bias at that address (0: none)."""
    native, (tokens, cols) = ctx.native, x.shape
    if w.signs is not None:
        rotated = ctx.empty(tokens, cols)
        native.rotate_blocks(
            ctx.stream, x.data_ptr(), tokens, cols, w.signs.data_ptr(), len(w.signs), rotated.data_ptr()
        )
        x = rotated
    how = w.rounding
    if isinstance(how, Rounding) and not how.codes:
        rounded = ctx.empty(tokens, cols)
        native.round_blocks(
            ctx.stream,
            how.block,
            how.largest,
            how.mantissa,
            how.smallest_normal,
            how.two_levels,
            x.data_ptr(),
            tokens,
            cols,
            rounded.data_ptr(),
        )
        x = rounded
    y = ctx.empty(tokens, op.out_features)
    native.block_linear(
        ctx.stream,
        w.format,
        w.packed.data_ptr(),
        w.scale,
        w.rows,
        w.cols,
        x.data_ptr(),
        tokens,
        bias,
        y.data_ptr(),
        how.codes if isinstance(how, Rounding) else 0,
        how.scale if isinstance(how, TokenRounding) else -1.0,
    )
    return y
