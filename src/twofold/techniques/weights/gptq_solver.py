"""GPTQ's solver: weights are rounded column by column, and the columns that are still to be rounded
compensate for the error of each.

Shape letters: O out, I in. Source: arXiv:2210.17323, section 3 and algorithm 1.
"""

from __future__ import annotations

import torch

from twofold.techniques.weights.block_formats import BlockFormat
from twofold.techniques.weights.scales import Scales

_BATCH = 32
"""Columns whose errors are applied to all later columns by one product: for speed alone. Divides any
group."""


class Hessian:
    """H = 2 X^T X over all tokens, up to a constant factor, which changes nothing: sums [I, I], float32."""

    def __init__(self, in_features: int) -> None:
        self.sums = torch.zeros(in_features, in_features)

    def add(self, x: torch.Tensor) -> None:
        """Take in activations [tokens, I]."""
        if self.sums.device != x.device:
            self.sums = self.sums.to(x.device)
        self.sums.addmm_(x.T, x)


def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with H^-1 = U^T U, of a positive definite H [I, I].

    With H = R R^T for an upper triangular R (the Cholesky factor of H read backwards), U is R^-1: one
    factorisation and one triangular inverse, where inverting H first takes two of each.
    """
    lower: torch.Tensor = torch.linalg.cholesky(hessian.flip(0, 1))
    identity = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    factor: torch.Tensor = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return factor


def solve(
    weight: torch.Tensor, hessian: torch.Tensor, fmt: BlockFormat, *, percdamp: float, act_order: bool
) -> dict[str, torch.Tensor]:
    """`weight` [O, I] in the format `fmt`: the tensors that `fmt.store` returns.

    hessian: of the inputs, [I, I]; percdamp: share of its mean diagonal that is added to the diagonal.
    act_order: take columns with the largest diagonal first; scales then come from the weights as they were,
    else from what they have become when their group's turn comes.
    """
    cols, size = weight.shape[1], fmt.block
    diagonal = hessian.diagonal()
    dead = diagonal == 0  # a feature that is always zero: its weights mean nothing
    damped = hessian + torch.diag(percdamp * diagonal.mean() + dead.float())
    columns = torch.where(
        dead, 0.0, weight
    ).T.contiguous()  # a column of W is a row, so that it is contiguous
    order = torch.arange(cols, device=weight.device)
    steps = [_Step(columns[at : at + size], fmt) for at in range(0, cols, size)]
    if act_order:
        order = diagonal.argsort(descending=True, stable=True)
        damped, columns = damped[order][:, order], columns[order]
    factor = inverse_factor(damped)
    group_of = (order // size).tolist()
    rounded = torch.empty_like(columns)
    for start in range(0, cols, _BATCH):
        end = min(start + _BATCH, cols)
        if not act_order and start % size == 0:
            steps[start // size] = _Step(columns[start : start + size], fmt)
        errors = columns.new_empty(end - start, columns.shape[1])
        for i in range(start, end):
            step, error = steps[group_of[i]], errors[i - start]
            torch.mul(columns[i], step.inverse, out=rounded[i])
            rounded[i] = fmt.element.round(rounded[i])
            torch.addcmul(columns[i], rounded[i], step.factor, value=-1, out=error)
            error.div_(factor[i, i])
            columns[i + 1 : end].addr_(factor[i, i + 1 : end], error, alpha=-1)
        columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    values = torch.empty_like(rounded)
    values[order] = rounded
    return fmt.store(values.T.contiguous(), Scales(torch.cat([s.scale.blocks for s in steps], dim=1)))


class _Step:
    """The scale of each row of W over `columns` [G, O]; as a factor and its inverse [O], 0 for 0."""

    def __init__(self, columns: torch.Tensor, fmt: BlockFormat) -> None:
        self.scale = fmt.scale.choose(columns.abs().amax(0).unsqueeze(1), fmt.element.maximum)
        self.factor = fmt.scale.factors(self.scale)[:, 0]
        self.inverse = torch.where(self.factor == 0, 0.0, self.factor.reciprocal())
