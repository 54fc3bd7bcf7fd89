"""Ops that touch each activation a few times. Shape letters: T tokens, W width, H heads, K KV heads, D head
dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twofold.kernels.registry import reference
from twofold.models.context import RowTable
from twofold.models.rope import RotaryTables
from twofold.models.step import StepInput
from twofold.ops.elementwise import (
    Activate,
    Add,
    AddNorm,
    Embedding,
    Gather,
    Norm,
    Pool,
    RotaryQKV,
    SigmoidGate,
    Softcap,
)


@reference(Embedding)
def embedding(
    op: Embedding,
    ids: torch.Tensor,
    table: torch.Tensor | RowTable,
    scale: float,
    positions: torch.Tensor | None = None,
    position_table: torch.Tensor | None = None,
    position_offset: int = 0,
) -> torch.Tensor:
    """ids [T] to [T, W]: table rows times `scale`, plus rows `position_offset` + positions of the position
    table, where there is one."""
    del op
    x = F.embedding(ids, table) if isinstance(table, torch.Tensor) else table.rows(ids)
    if scale != 1.0:
        x = x * torch.tensor(scale, dtype=x.dtype)
    if position_table is not None:
        assert positions is not None
        x = x + F.embedding(positions + position_offset, position_table)
    return x


def normalise(
    x: torch.Tensor, kind: str, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """RMSNorm or LayerNorm over the last dimension, computed in float32."""
    if kind == "layer":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return F.rms_norm(x.float(), x.shape[-1:], weight.float(), eps).to(x.dtype)


@reference(Norm)
def norm(
    op: Norm, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, eps: float
) -> torch.Tensor:
    """x [T, W] normalised."""
    return normalise(x, op.norm, weight, bias, eps)


@reference(AddNorm)
def add_norm(
    op: AddNorm,
    x: torch.Tensor,
    delta: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(norm(x + delta), x + delta)."""
    total = x + delta
    return normalise(total, op.norm, weight, bias, eps), total


@reference(Add)
def add(op: Add, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + y."""
    del op
    return x + y


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, rotated: int) -> torch.Tensor:
    """x [T, H, D] with the first `rotated` elements of each head rotated, halves paired (NeoX order).

    cos and sin: [T, 1, rotated], each half repeated; sin's first half negative.
    """
    turned = x[..., :rotated]
    half = rotated // 2
    swapped = torch.cat((turned[..., half:], turned[..., :half]), dim=-1)
    turned = turned * cos + swapped * sin
    return turned if rotated == x.shape[-1] else torch.cat((turned, x[..., rotated:]), dim=-1)


@reference(RotaryQKV)
def rotary_qkv(
    op: RotaryQKV,
    qkv: torch.Tensor,
    step: StepInput,
    rotary: RotaryTables | None,
    local: bool,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """qkv [T, (H + 2K) · D] to q [T, H, D], k and v [T, K, D], rotated by the step's positions.

    local: by the tables of the sliding layers, where those differ.
    """
    heads = qkv.view(op.tokens, op.heads + 2 * op.kv_heads, op.head_dim)
    v = heads[:, op.heads + op.kv_heads :]
    if op.qk_norm:
        assert q_norm is not None
        assert k_norm is not None
        q = normalise(heads[:, : op.heads], "rms", q_norm, None, eps)
        k = normalise(heads[:, op.heads : op.heads + op.kv_heads], "rms", k_norm, None, eps)
        qk = torch.cat((q, k), dim=1)
    else:
        qk = heads[:, : op.heads + op.kv_heads]
    if op.rotated:
        assert rotary is not None
        cos, sin = step.rotation(rotary, local=local)
        qk = rotate(qk, cos, sin, op.rotated)
    return qk[:, : op.heads], qk[:, op.heads :], v


def activation(x: torch.Tensor, function: str, *, gated: bool) -> torch.Tensor:
    """act(gate) · up of a fused [T, 2W], or act(x) of [T, W]."""
    if gated:
        gate, up = x.chunk(2, dim=-1)
        return activation(gate, function, gated=False).mul_(up)
    match function:
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
    raise AssertionError(f"unknown activation {function!r}")


@reference(Activate)
def activate(op: Activate, x: torch.Tensor) -> torch.Tensor:
    """[T, 2W] or [T, W] to [T, W]."""
    return activation(x, op.function, gated=op.gated)


@reference(Gather)
def gather(op: Gather, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Those rows of x [T, W]."""
    del op
    return x.index_select(0, rows)


@reference(Pool)
def pool(op: Pool, x: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Rows [R, W] of sequences with `counts` rows, one after the other, to their sums [S, W] in float32."""
    del op
    return torch.stack([part.sum(0, dtype=torch.float32) for part in torch.split(x, counts)])


@reference(SigmoidGate)
def sigmoid_gate(op: SigmoidGate, y: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """y [T, W] times the sigmoid of gate [T, 1]."""
    del op
    return y * torch.sigmoid(gate)


@reference(Softcap)
def softcap(op: Softcap, logits: torch.Tensor, cap: float) -> torch.Tensor:
    """Logits [R, V] within ±cap, in float32."""
    del op
    return torch.tanh(logits.float() / cap) * cap
