"""Weight matrices in outlier-victim pairs.

Native CPU kernels multiply the pairs as they are stored, in strips of rows; elsewhere they are widened for
each product.
"""

from __future__ import annotations

import torch

from twofold.kernels.cpu.pairs import PairStrips, can_hold, pack
from twofold.ops.base import Precision
from twofold.ops.formats import Format
from twofold.techniques.weights.counted import CountedMatrix
from twofold.techniques.weights.outlier_victim import PairType, round_to_pairs

_ROW_SCALE_BITS = 32


class OvpMatrix(CountedMatrix):
    """Codes [out, bytes] and scales float32 [out], or after `interleave` strips of the codes and the scales;
    no float copy is kept.

    kind: the type of its pairs; activations: the type and the scale that activations are rounded to, or None.
    """

    def __init__(
        self,
        fmt: Format,
        out_features: int,
        in_features: int,
        tensors: dict[str, torch.Tensor],
        counters: dict[str, int],
        kind: PairType,
        activations: tuple[PairType, float] | None = None,
    ) -> None:
        super().__init__(fmt, out_features, in_features, tensors)
        self.counters, self.kind, self.activations = counters, kind, activations

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and the scales."""
        return super().nbytes + self.out_features * _ROW_SCALE_BITS // 8

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The stored values, [out, in]."""
        if self.strips is not None:
            return self.strips.widen().to(dtype)
        return (self.kind.decode(self.tensors["codes"]) * self.tensors["scales"][:, None]).to(dtype)

    def interleave(self) -> None:
        """Codes become strips, `packed`, where native kernels can multiply these."""
        held = self.tensors
        if not held or self.strips is not None or held["scales"].device.type != "cpu":
            return
        if not can_hold(self.out_features, self.in_features):
            return
        packed = pack(self.kind.name, held["codes"], self.out_features, self.in_features)
        self.tensors = {"packed": packed, "scales": held["scales"]}
        rounding = None if self.activations is None else (self.activations[0].name, self.activations[1])
        self.strips = PairStrips(
            self.kind.name, self.out_features, self.in_features, packed, held["scales"], rounding
        )

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [tokens, in] rounded to pairs, where activations are."""
        return x if self.activations is None else round_to_pairs(x, *self.activations).to(x.dtype)

    def compute(self, activations: Precision) -> Precision:
        """The wider of both sides' integers, or that of the activations where these are kept."""
        return self.format.matmul or activations

    def vector_flop(self, tokens: int) -> int:
        """Rounding the activations (magnitude, divide, round, multiply), or widening: a value and a scale."""
        if self.format.matmul is not None:
            return 4 * tokens * self.in_features
        return 2 * self.out_features * self.in_features
