"""Tile-wise sparsity (TW), and 2:4 inside its tiles (TVW): each tile of a matrix keeps inputs of its own.

Source: "Accelerating Sparse DNNs Based on Tiled GEMM", arXiv:2402.10876 (TVW), which extends "Accelerating
Sparse DNN Models without Hardware-Support via Tile-Wise Sparsity", arXiv:2008.13006 (TW), and
github.com/clevercool/TileSparsity. A product is cut into tiles of `granularity` outputs; each tile drops the
inputs that matter least to it, and is then a small dense product over those it kept; with `vector`, each row
of a tile also drops two of every four inputs that the tile kept.

Differs: pruning is done at once and without training (there step by step, with fine-tuning); the score of a
weight is its magnitude times the norm of its input over a text (there times its gradient); the tiles of one
matrix compete, not those of all matrices; whole outputs are dropped only if `outputs` asks for it; tiles keep
multiples of eight inputs, and have the largest size up to `granularity` that divides the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch

from twofold.devices.base import Device
from twofold.models.transformer import Transformer
from twofold.models.weights import Matrix
from twofold.techniques.base import Claim, Info
from twofold.techniques.weights import sparse_linear  # noqa: F401  (fills the registry of kernels)
from twofold.techniques.weights.inputs import SquaredNorms, float_weight, learn_matrices
from twofold.techniques.weights.learned import Calibrated, Learned
from twofold.techniques.weights.linear_layers import BlockLinears
from twofold.techniques.weights.sparse_matrix import Pattern, SparseMatrix, pack_sparse

_PAPER = "arXiv:2402.10876"
_MODELS = "VGG-16, ResNet, BERT-base and an NMT model, pruned with fine-tuning"
_UNIT = 8  # a tile keeps a multiple of so many inputs: whole bytes of its mask


def _claim(key: str, baseline: str, times: float, setup: str | None, why_not: str = "") -> Claim:
    return Claim(
        key,
        f"speed-up of the model over {baseline} (mean)",
        (times, times),
        "×",
        baseline,
        _MODELS,
        "1 x NVIDIA A100",
        f"{_PAPER}, abstract",
        setup,
        why_not,
    )


@dataclass(frozen=True)
class TvwSparsity(Calibrated):
    """sparsity: share of all weights that is removed. granularity: most outputs of a tile. vector: in each
    row, also remove two of every four inputs that its tile kept (half of the remaining weights). outputs:
    share of the outputs that is dropped whole, before tiles are made."""

    sparsity: float = 0.75
    granularity: int = 128
    vector: bool = True
    outputs: float = 0.0

    info: ClassVar[Info] = Info(
        name="tvw-sparsity",
        title="Accelerating Sparse DNNs Based on Tiled GEMM",
        source=_PAPER,
        summary="drops inputs tile by tile, and two of every four weights that remain; products skip both",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        _claim("tvw-over-dense", "the dense model", 1.85, "over_dense"),
        _claim(
            "tvw-over-block",
            "block sparsity",
            2.75,
            None,
            "the baseline is a library of block-sparse kernels, whose speed no roofline tells",
        ),
        _claim(
            "tvw-over-unstructured",
            "unstructured sparsity",
            22.18,
            None,
            "the baseline is a library of unstructured sparse products, whose speed no roofline tells",
        ),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        if not 0 < self.sparsity < 1:
            raise ValueError(f"{where}: sparsity must lie between 0 and 1, not {self.sparsity}")
        if not 0 <= self.outputs < 1:
            raise ValueError(f"{where}: outputs must be at least 0 and below 1, not {self.outputs}")
        if self.granularity < 1:
            raise ValueError(f"{where}: granularity must be at least 1, not {self.granularity}")
        if self.input_share > 1:
            least = 1 - (1 - self.outputs) / (2 if self.vector else 1)
            raise ValueError(
                f"{where}: outputs={self.outputs} and vector={self.vector} alone remove more than "
                f"sparsity={self.sparsity}; use at least sparsity={least:g}, or vector=false"
            )

    @property
    def input_share(self) -> float:
        """Share of its inputs that a tile keeps on average."""
        return (1 - self.sparsity) / (1 - self.outputs) * (2 if self.vector else 1)

    def pattern(self, out_features: int, in_features: int) -> Pattern:
        """How much of a matrix is kept."""
        rows = max(1, out_features - int(self.outputs * out_features))
        tile = next(size for size in range(min(self.granularity, rows), 0, -1) if rows % size == 0)
        tiles, most = rows // tile, in_features // _UNIT
        units = min(max(1, round(tiles * in_features * self.input_share / _UNIT)), tiles * most)
        inputs = units * _UNIT
        kept = inputs * tile // (2 if self.vector else 1)
        return Pattern(rows, tile, inputs, kept, self.vector, True, rows < out_features)

    def weight_scheme(self) -> Learned:
        """Linear layers of all blocks in sparse tiles."""
        scheme = _TileScheme(self)
        return Learned(scheme, scheme.counters, self.calibration)

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with every matrix pruned for its inputs when `model` reads `token_ids`."""
        scheme = _TileScheme(self)

        def prune(key: str, matrix: Matrix, norms: SquaredNorms) -> SparseMatrix:
            del key
            return scheme.prune(float_weight(matrix), norms.norms)

        return self.with_calibration(learn_matrices(model, device, token_ids, SquaredNorms, prune))


class _TileScheme(BlockLinears):
    """Linear layers of all blocks in sparse tiles. counters: as a SparseMatrix counts."""

    def __init__(self, technique: TvwSparsity) -> None:
        self.technique = technique
        self.counters = {"products": 0, "weights_skipped": 0}

    def applies(self, name: str, out_features: int, in_features: int) -> bool:
        """Whether the matrix is a linear layer of a block with enough inputs for a byte of a mask."""
        return in_features >= _UNIT and super().applies(name, out_features, in_features)

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> SparseMatrix:
        """The matrix pruned by magnitude alone; None makes one that holds shapes only."""
        if weight is not None:
            return self.prune(weight.float(), weight.new_ones(in_features))
        pattern = self.technique.pattern(out_features, in_features)
        return SparseMatrix(pattern, out_features, in_features, {}, (), self.counters)

    def prune(self, weight: torch.Tensor, norms: torch.Tensor) -> SparseMatrix:
        """`weight` [out, in] with what is kept of it for inputs of those norms [in]."""
        pattern = self.technique.pattern(*weight.shape)
        scores = (weight * norms).square()
        rows = torch.arange(len(weight), device=weight.device)
        if pattern.chosen_outputs:
            rows = scores.sum(1).topk(pattern.rows).indices.sort().values
        tiles = scores[rows].view(-1, pattern.tile_rows, weight.shape[1]).sum(1)
        counts = tile_counts(tiles, pattern.inputs)
        inputs = [t.topk(n).indices.sort().values for t, n in zip(tiles, counts, strict=True)]
        keep = None
        if pattern.masked:
            keep = torch.zeros_like(weight, dtype=torch.bool)
            for mine, columns in zip(rows.view(-1, pattern.tile_rows), inputs, strict=True):
                fours = scores[mine][:, columns].view(len(mine), -1, 4)
                best = torch.zeros_like(fours, dtype=torch.bool).scatter_(-1, fours.topk(2).indices, True)
                keep[mine[:, None], columns] = best.flatten(1)
        return pack_sparse(
            weight,
            inputs,
            pattern.tile_rows,
            self.counters,
            outputs=rows if pattern.chosen_outputs else None,
            keep=keep,
        )


def tile_counts(scores: torch.Tensor, total: int) -> list[int]:
    """How many inputs each tile keeps: as many as it has among the `total` best of all tiles, in whole bytes
    of a mask.

    scores: [tiles, inputs]. What is left after rounding down goes to the tiles that lost most by it.
    """
    best = scores.flatten().topk(total).indices // scores.shape[1]
    wanted = best.bincount(minlength=len(scores))
    most = scores.shape[1] // _UNIT * _UNIT
    counts = (wanted // _UNIT * _UNIT).clamp(max=most)
    left = total - int(counts.sum())
    while left:
        lost = torch.where(counts < most, wanted - counts, -total)
        tile = int(lost.argmax())
        counts[tile] += _UNIT
        left -= _UNIT
    return counts.tolist()
