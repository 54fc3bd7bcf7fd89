"""Products with sparse matrices: the reference kernel and the native one. Shape letters: T tokens, O out, I
in."""

from __future__ import annotations

from typing import Any

import torch

from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu, reference
from twofold.ops.linear import SparseLinear
from twofold.techniques.weights.sparse_matrix import SparseMatrix

_ELEMENTS = 1 << 23
"""Of a temporary in the reference kernel."""


@reference(SparseLinear)
def sparse_linear(
    op: SparseLinear, x: torch.Tensor, weight: SparseMatrix, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x [T, I] to [T, O]: every kept weight is multiplied once, nothing else is."""
    y = x.new_zeros(len(x), op.out_features)
    for tile in weight.tiles():
        mine = x if tile.inputs is None else x[:, tile.inputs.long()]
        values, rows = tile.values.to(x.dtype), tile.rows
        if tile.mask is None:
            y[:, rows] = mine @ values.T
            continue
        columns = tile.columns()
        step = max(1, _ELEMENTS // max(1, len(x) * values.shape[1]))
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            products = torch.bmm(values[some].unsqueeze(1), mine.T[columns[some]])  # [rows, 1, T]
            y[:, rows[some]] = products.squeeze(1).T
    return y if bias is None else y + bias


@cpu(SparseLinear)
def sparse_linear_native(
    ctx: CpuContext,
    op: SparseLinear,
    x: torch.Tensor,
    weight: SparseMatrix,
    bias: torch.Tensor | None = None,
) -> Any:
    """The same by native kernels; NotImplemented where they do not take the arguments."""
    if x.dtype != torch.float32 or not x.is_contiguous() or x.shape[-1] != op.in_features:
        return NotImplemented
    y = ctx.empty(len(x), op.out_features)
    ctx.native.sparse_linear(
        ctx.stream,
        weight.native_tiles(),
        op.in_features,
        op.out_features,
        x.data_ptr(),
        len(x),
        0 if bias is None else bias.data_ptr(),
        y.data_ptr(),
    )
    return y
