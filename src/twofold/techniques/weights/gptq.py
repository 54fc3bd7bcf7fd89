"""GPTQ: linear layers rounded to 3, 4 or 8 bits in groups, column by column, so that their outputs on a text
change least.

Source: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", arXiv:2210.17323,
and github.com/IST-DASLab/gptq; parameters are named as there. Differs: groups are symmetric around zero with
a bfloat16 scale (the source's default has a zero point), because native kernels multiply such groups as they
are stored; with act_order, scales are those of the weights before rounding, so that groups remain runs of
neighbouring columns; calibration reads one text of a few hundred tokens (there 128 of 2048 tokens); Q, K and
V form one matrix, and so do gate and up; experts that no token chose are rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from twofold.devices.base import Device
from twofold.models.transformer import Transformer
from twofold.models.weights import Matrix
from twofold.techniques.base import Info
from twofold.techniques.weights.block_formats import BlockFormat, block_format
from twofold.techniques.weights.block_matrix import BlockMatrix, BlockScheme
from twofold.techniques.weights.gptq_solver import Hessian, solve
from twofold.techniques.weights.inputs import float_weight, learn_matrices
from twofold.techniques.weights.learned import Calibrated, Learned

_BITS, _GROUPS = (3, 4, 8), (32, 64, 128)


@dataclass(frozen=True)
class Gptq(Calibrated):
    """bits: of a weight, 3, 4 or 8. group_size: columns that share a scale, 32, 64 or 128. act_order: round
    the columns with the largest activations first. percdamp: share of the mean of the Hessian's diagonal that
    is added to the diagonal, so that it can be inverted."""

    bits: int = 4
    group_size: int = 128
    act_order: bool = False
    percdamp: float = 0.01

    info: ClassVar[Info] = Info(
        name="gptq",
        title="GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        source="arXiv:2210.17323",
        summary="rounds linear layers to 3, 4 or 8 bits so that their outputs on a text change least",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )

    def __post_init__(self) -> None:
        where = f"technique {self.info.name}"
        for name, value, allowed in (("bits", self.bits, _BITS), ("group_size", self.group_size, _GROUPS)):
            if value not in allowed:
                fit = min(allowed, key=lambda a: (abs(a - value), -a))
                choices = ", ".join(map(str, allowed))
                raise ValueError(f"{where}: {name} must be one of {choices}, not {value}; use {fit}")
        if not 0 < self.percdamp <= 1:
            raise ValueError(f"{where}: percdamp must lie above 0 and be at most 1, not {self.percdamp}")

    @property
    def block_format(self) -> BlockFormat:
        """How matrices are stored."""
        return block_format(f"int{self.bits}-g{self.group_size}")

    def weight_scheme(self) -> Learned:
        """Linear layers of all blocks in the format: as calibrated, else rounded to nearest."""
        scheme = BlockScheme(self.block_format)
        return Learned(scheme, scheme.counters, self.calibration)

    def calibrate(self, model: Transformer, device: Device, token_ids: Sequence[int]) -> Self:
        """The technique with every matrix rounded for its inputs when `model` reads `token_ids`."""
        return self.with_calibration(learn_matrices(model, device, token_ids, Hessian, self._rounded))

    def _rounded(self, key: str, matrix: Matrix, hessian: Hessian) -> BlockMatrix:
        del key
        fmt, weight = self.block_format, float_weight(matrix).to(hessian.sums.device)
        if bool(hessian.sums.any()):
            tensors = solve(weight, hessian.sums, fmt, percdamp=self.percdamp, act_order=self.act_order)
        else:
            tensors = fmt.encode(weight)
        return BlockMatrix(fmt, matrix.out_features, matrix.in_features, tensors)
