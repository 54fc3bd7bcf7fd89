"""Products with stored weights. Shape letters: T tokens, I in, O out, E experts, A active experts, F expert
width."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from twofold.kernels.reference.elementwise import activation
from twofold.kernels.registry import reference
from twofold.models.weights import Matrix
from twofold.ops.linear import ExpertMLP, Linear, Route


@reference(Linear)
def linear(op: Linear, x: torch.Tensor, weight: Matrix, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [T, I] to [T, O]: packed weights are widened for the product and dropped again."""
    assert x.shape[-1] == op.in_features, (x.shape, op)
    return F.linear(weight.prepare(x), weight.widen(x.dtype), bias)


@reference(Route)
def route(
    op: Route, logits: torch.Tensor, scoring: str, normalize: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Router logits [T, E] to weights [T, A] and expert ids [T, A]."""
    scores = logits.float().softmax(-1) if scoring == "softmax" else logits.float().sigmoid()
    weights, ids = scores.topk(op.active, dim=-1)
    if normalize:
        weights = weights / weights.sum(-1, keepdim=True)
    return (weights * scale).to(logits.dtype), ids


@reference(ExpertMLP)
def expert_mlp(
    op: ExpertMLP,
    x: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor,
    gate_up: list[Matrix],
    down: list[Matrix],
    function: str,
) -> torch.Tensor:
    """x [T, H], routing weights and ids [T, A] to [T, H]: each expert runs on the tokens that chose it."""
    del op
    out = torch.zeros_like(x)
    for expert in sorted(set(ids.flatten().tolist())):
        token, choice = torch.where(ids == expert)
        hidden = F.linear(gate_up[expert].prepare(x[token]), gate_up[expert].widen(x.dtype))
        hidden = activation(hidden, function, gated=True)
        y = F.linear(down[expert].prepare(hidden), down[expert].widen(x.dtype))
        out.index_add_(0, token, y * weights[token, choice, None])
    return out
