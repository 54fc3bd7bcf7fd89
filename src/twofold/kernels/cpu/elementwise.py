"""Native ops that touch each activation a few times. Shape letters: T tokens, W width, H heads, K KV heads,
D head dimension."""

from __future__ import annotations

from typing import Any

import torch

from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.registry import cpu
from twofold.models.context import RowTable
from twofold.models.packed import PackedMatrix
from twofold.models.rope import RotaryTables
from twofold.models.step import StepInput
from twofold.ops.elementwise import (
    Activate,
    Add,
    AddNorm,
    Embedding,
    Gather,
    Norm,
    RotaryQKV,
    SigmoidGate,
    Softcap,
)

Tensor = torch.Tensor
Output = torch.Tensor | Any  # Any stands for NotImplemented, which has that type
Outputs = tuple[Tensor, ...] | Any


def floats(*tensors: Tensor | None) -> bool:
    """Whether all that are not None are float32 and contiguous."""
    return all(t is None or (t.dtype == torch.float32 and t.is_contiguous()) for t in tensors)


def indices(*tensors: Tensor | None) -> bool:
    """Whether all that are not None are int64 and contiguous."""
    return all(t is None or (t.dtype == torch.int64 and t.is_contiguous()) for t in tensors)


def address(tensor: Tensor | None) -> int:
    """Where its elements begin; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


@cpu(Embedding)
def embedding(
    ctx: CpuContext,
    op: Embedding,
    ids: Tensor,
    table: Tensor | RowTable,
    scale: float,
    positions: Tensor | None = None,
    position_table: Tensor | None = None,
    position_offset: int = 0,
) -> Output:
    """ids [T] to [T, W]. An id or position that its table has no row for gives a row of NaN."""
    if position_table is None:
        positions = None
    if not (indices(ids, positions) and floats(position_table)):
        return NotImplemented
    if isinstance(table, Tensor):
        if not floats(table):
            return NotImplemented
        y = ctx.empty(op.tokens, op.width)
        ctx.native.embedding(
            ctx.stream,
            address(ids),
            op.tokens,
            address(table),
            table.shape[0],
            op.width,
            scale,
            address(positions),
            address(position_table),
            0 if position_table is None else position_table.shape[0],
            position_offset,
            address(y),
        )
        return y
    if type(table) is not PackedMatrix or len(table.segments) != 1 or position_table is not None:
        return NotImplemented
    y = ctx.empty(op.tokens, op.width)
    name, packed, _ = table.addresses()[0]
    ctx.native.packed_rows(ctx.stream, name, packed, op.width, address(ids), op.tokens, scale, address(y))
    return y


@cpu(Norm)
def norm(ctx: CpuContext, op: Norm, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Output:
    """x [T, W] normalised."""
    if not floats(x, weight, bias):
        return NotImplemented
    y = ctx.empty(op.tokens, op.width)
    ctx.native.norm(
        ctx.stream,
        op.norm,
        address(x),
        address(weight),
        address(bias),
        eps,
        op.tokens,
        op.width,
        address(y),
    )
    return y


@cpu(AddNorm)
def add_norm(
    ctx: CpuContext,
    op: AddNorm,
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
) -> Outputs:
    """(norm(x + delta), x + delta)."""
    if not floats(x, delta, weight, bias):
        return NotImplemented
    normed, total = ctx.empty(op.tokens, op.width), ctx.empty(op.tokens, op.width)
    ctx.native.add_norm(
        ctx.stream,
        op.norm,
        address(x),
        address(delta),
        address(weight),
        address(bias),
        eps,
        op.tokens,
        op.width,
        address(normed),
        address(total),
    )
    return normed, total


@cpu(RotaryQKV)
def rotary_qkv(
    ctx: CpuContext,
    op: RotaryQKV,
    qkv: Tensor,
    step: StepInput,
    rotary: RotaryTables | None,
    local: bool,
    q_norm: Tensor | None,
    k_norm: Tensor | None,
    eps: float,
) -> Outputs:
    """qkv [T, (H + 2K) · D] to q [T, H, D], k and v [T, K, D]; v is a view of qkv, as are all three where
    there is nothing to compute."""
    cos, sin = (None, None) if rotary is None or not op.rotated else rotary.table(local=local)
    positions = step.positions
    if not (floats(qkv, q_norm, k_norm, cos, sin) and indices(positions)):
        return NotImplemented
    turned = op.heads + op.kv_heads
    heads = qkv.view(op.tokens, turned + op.kv_heads, op.head_dim)
    qk = heads
    if op.rotated or op.qk_norm:
        assert op.rotated == 0 or (cos is not None and positions is not None)
        assert not op.qk_norm or (q_norm is not None and k_norm is not None)
        qk = ctx.empty(op.tokens, turned, op.head_dim)
        ctx.native.rotary(
            ctx.stream,
            address(qkv),
            qkv.shape[-1],
            op.tokens,
            op.heads,
            op.kv_heads,
            op.head_dim,
            op.rotated,
            address(positions),
            address(cos),
            address(sin),
            0 if cos is None else cos.shape[0],
            address(q_norm) if op.qk_norm else 0,
            address(k_norm) if op.qk_norm else 0,
            eps,
            address(qk),
        )
    return qk[:, : op.heads], qk[:, op.heads : turned], heads[:, turned:]


@cpu(Activate)
def activate(ctx: CpuContext, op: Activate, x: Tensor) -> Output:
    """[T, 2W] or [T, W] to [T, W]."""
    if not floats(x):
        return NotImplemented
    y = ctx.empty(op.tokens, op.width)
    ctx.native.activate(ctx.stream, op.function, op.gated, address(x), op.tokens, op.width, address(y))
    return y


@cpu(Add)
def add(ctx: CpuContext, op: Add, x: Tensor, y: Tensor) -> Output:
    """x + y."""
    if not floats(x, y) or x.shape != y.shape:
        return NotImplemented
    out = ctx.empty(op.tokens, op.width)
    ctx.native.add(ctx.stream, address(x), address(y), op.tokens * op.width, address(out))
    return out


@cpu(Gather)
def gather(ctx: CpuContext, op: Gather, x: Tensor, rows: Tensor) -> Output:
    """Those rows of x [T, W]; one that x does not have gives NaN."""
    if not (floats(x) and indices(rows)):
        return NotImplemented
    out = ctx.empty(op.rows, op.width)
    ctx.native.gather(ctx.stream, address(x), x.shape[0], op.width, address(rows), op.rows, address(out))
    return out


@cpu(SigmoidGate)
def sigmoid_gate(ctx: CpuContext, op: SigmoidGate, y: Tensor, gate: Tensor) -> Output:
    """y [T, W] times the sigmoid of gate [T, 1]."""
    if not floats(y, gate) or gate.numel() != op.tokens:
        return NotImplemented
    out = ctx.empty(op.tokens, op.width)
    ctx.native.sigmoid_gate(ctx.stream, address(y), address(gate), op.tokens, op.width, address(out))
    return out


@cpu(Softcap)
def softcap(ctx: CpuContext, op: Softcap, logits: Tensor, cap: float) -> Output:
    """Logits [R, V] within ±cap."""
    if not floats(logits):
        return NotImplemented
    out = ctx.empty(op.rows, op.vocab)
    ctx.native.softcap(ctx.stream, address(logits), cap, op.rows * op.vocab, address(out))
    return out
