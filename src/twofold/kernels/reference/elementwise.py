"""Ops that touch each activation a few times. Shape letters: T tokens, W width, H heads, K KV heads, D head
dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twofold.kernels.registry import reference
from twofold.ops.elementwise import Activate, Add, AddNorm, Embedding, Norm, RotaryQKV


@reference(Embedding)
def embedding(
    op: Embedding,
    ids: torch.Tensor,
    table: torch.Tensor,
    scale: float,
    positions: torch.Tensor | None = None,
    position_table: torch.Tensor | None = None,
) -> torch.Tensor:
    """ids [T] to [T, W]: table rows times `scale`, plus position rows where there is a table of them."""
    del op
    x = F.embedding(ids, table)
    if scale != 1.0:
        x = x * torch.tensor(scale, dtype=x.dtype)
    if position_table is not None:
        assert positions is not None
        x = x + F.embedding(positions, position_table)
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
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """qkv [T, (H + 2K) · D] to q [T, H, D], k and v [T, K, D]."""
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
        assert cos is not None
        assert sin is not None
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
