"""Wanda: of each output's weights, those with the smallest product of magnitude and input norm are removed.

Source: "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695, and
github.com/locuslab/wanda: the score of a weight is |W_ij| · ||X_j||_2 over the tokens of a text, compared
within a row; layers are pruned one after the other, each on the outputs of the pruned ones before it. What
remains is stored in binary16 with a bit mask, and products skip the rest. Differs: one text of a few hundred
tokens (there 128 of 2048 tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from twofold.devices.base import Device
from twofold.models.transformer import Transformer
from twofold.models.weights import Matrix
from twofold.techniques.base import Info
from twofold.techniques.weights import sparse_linear  # noqa: F401  (fills the registry of kernels)
from twofold.techniques.weights.inputs import SquaredNorms, float_weight, learn_matrices
from twofold.techniques.weights.learned import Calibrated, Learned
from twofold.techniques.weights.linear_layers import BlockLinears
from twofold.techniques.weights.sparse_matrix import Pattern, SparseMatrix, pack_sparse


@dataclass(frozen=True)
class Wanda(Calibrated):
    """sparsity: share of each row that is removed. prune_n, prune_m: remove n of every m neighbours instead
    (2 and 4: the pattern of sparse tensor cores); both 0 for an unstructured pattern.
    """

    sparsity: float = 0.5
    prune_n: int = 0
    prune_m: int = 0

    info: ClassVar[Info] = Info(
        name="wanda",
        title="A Simple and Effective Pruning Approach for Large Language Models",
        source="arXiv:2306.11695",
        summary="removes the weights with the smallest magnitude times input norm; products skip them",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        if not 0 < self.sparsity < 1:
            raise ValueError(f"{where}: sparsity must lie between 0 and 1, not {self.sparsity}")
        if (self.prune_n or self.prune_m) and not 0 < self.prune_n < self.prune_m:
            raise ValueError(
                f"{where}: prune_n must lie between 0 and prune_m, not be {self.prune_n} of {self.prune_m}; "
                "use prune_n=2 and prune_m=4, or leave both out"
            )

    def removed(self, in_features: int) -> int:
        """How many of a row's weights are removed. In n:m patterns, columns that do not fill a group stay."""
        if self.prune_m:
            return in_features // self.prune_m * self.prune_n
        return int(in_features * self.sparsity)

    def kept(self, weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Which weights stay: bool, as `weight` [out, in]. norms: of the inputs, [in]."""
        scores = weight.abs() * norms
        gone = torch.zeros_like(scores, dtype=torch.bool)
        if not self.prune_m:
            least = scores.topk(self.removed(weight.shape[1]), largest=False, sorted=False).indices
            return ~gone.scatter_(1, least, True)
        whole = weight.shape[1] // self.prune_m * self.prune_m
        groups = scores[:, :whole].reshape(len(scores), -1, self.prune_m)
        least = groups.topk(self.prune_n, largest=False, sorted=False).indices
        gone[:, :whole] = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, least, True).flatten(1)
        return ~gone

    def weight_scheme(self) -> Learned:
        """Linear layers of all blocks with what is kept of them."""
        scheme = _WandaScheme(self)
        return Learned(scheme, scheme.counters, self.calibration)

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with every matrix pruned for its inputs when `model` reads `token_ids`."""
        scheme = _WandaScheme(self)

        def prune(key: str, matrix: Matrix, norms: SquaredNorms) -> SparseMatrix:
            del key
            return scheme.prune(float_weight(matrix), norms.norms)

        return self.with_calibration(learn_matrices(model, device, token_ids, SquaredNorms, prune))


class _WandaScheme(BlockLinears):
    """Linear layers of all blocks as sparse matrices. counters: as a SparseMatrix counts."""

    def __init__(self, technique: Wanda) -> None:
        self.technique = technique
        self.counters = {"products": 0, "weights_skipped": 0}

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> SparseMatrix:
        """The matrix pruned by magnitude alone; None makes one that holds shapes only."""
        if weight is not None:
            return self.prune(weight.float(), weight.new_ones(in_features))
        kept = out_features * (in_features - self.technique.removed(in_features))
        pattern = Pattern(out_features, out_features, in_features, kept, True, False, False)
        return SparseMatrix(pattern, out_features, in_features, {}, (), self.counters)

    def prune(self, weight: torch.Tensor, norms: torch.Tensor) -> SparseMatrix:
        """`weight` [out, in] with what is kept of it for inputs of those norms [in]."""
        everything = torch.arange(weight.shape[1], device=weight.device)
        keep = self.technique.kept(weight, norms)
        return pack_sparse(weight, [everything], len(weight), self.counters, keep=keep)
