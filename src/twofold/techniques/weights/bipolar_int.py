"""Bipolar integers: weights and activations of 1 to 8 bits, each bit ±1, multiplied bit plane by bit plane.

Source: "Efficient Arbitrary Precision Acceleration for Large Language Models on GPU Tensor Cores",
arXiv:2409.17870: a code of n bits is a sum of ±2^i, so that values are odd, symmetric around zero and need no
sign bit; the product of two planes counts equal bits, and products are shifted and added. Differs: the source
takes codes from other quantisers; here each group of a row gets the scale with the least squared error, and
each group of a token's activations the scale of its largest magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from twofold.kernels.registry import reference
from twofold.ops.base import Precision
from twofold.ops.formats import Format, register
from twofold.ops.linear import BitPlaneLinear, Linear
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.weights.bit_planes import FACTOR_BITS, PlaneMatrix, in_groups, planes_of
from twofold.techniques.weights.counted import in_place_of
from twofold.techniques.weights.linear_layers import BlockLinears

_MOST_BITS = 8
_MOST_GROUP = 256
"""Columns up to which sums of products of 8-bit codes are whole numbers of float32."""
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of a group's largest magnitude that are tried as its largest value."""
_CHUNK = 1 << 20
_TINY = 1e-30
"""Groups whose largest magnitude is smaller are zero: the inverse of their scale would overflow float32."""
_PAPER = "arXiv:2409.17870"


@dataclass(frozen=True)
class BipolarInt(Technique):
    """Linear layers of all blocks in bipolar integers; embeddings, norms and routers stay as they are.

    wbits: bits of a weight; abits: bits of the activations of these layers; group: weights of a row, and
    activations of a token, that share a scale; lm_head: also store the output projection this way.
    """

    wbits: int = 4
    abits: int = 8
    group: int = 128
    lm_head: bool = False

    info: ClassVar[Info] = Info(
        name="bipolar-int",
        title="Efficient Arbitrary Precision Acceleration for Large Language Models on GPU Tensor Cores",
        source=_PAPER,
        summary="stores linear layers as bit planes of ±1 and multiplies them by activations bit by bit",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "product-over-cutlass",
            "largest speed-up of a matrix product",
            (2.4, 2.4),
            "×",
            "CUTLASS, integers",
            "products of LLMs' linear layers",
            "RTX 3090",
            f"{_PAPER}, abstract",
            "product_over_cutlass",
        ),
        Claim(
            "inference",
            "largest speed-up of inference",
            (6.7, 6.7),
            "×",
            "16 bits",
            "LLMs",
            "RTX 3090",
            f"{_PAPER}, abstract",
            "inference",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique bipolar-int"
        for name in ("wbits", "abits"):
            if not 1 <= getattr(self, name) <= _MOST_BITS:
                raise ValueError(f"{where}: {name} must be 1 to {_MOST_BITS}, not {getattr(self, name)}")
        if self.group < 8 or self.group % 8 or self.group > _MOST_GROUP:
            raise ValueError(
                f"{where}: group must be a multiple of 8 up to {_MOST_GROUP}, not {self.group}; native "
                "kernels take multiples of 32, such as 128"
            )

    def weight_scheme(self) -> BipolarScheme:
        """Linear layers in bipolar integers."""
        return BipolarScheme(self)


class BipolarScheme(BlockLinears):
    """Stores the linear layers of all blocks, and the output projection if asked, in bipolar integers.

    counters: "products": products with matrices stored this way; "plane_products": the pairs of bit planes
    that these multiplied.
    """

    def __init__(self, technique: BipolarInt) -> None:
        self.technique, self.lm_head = technique, technique.lm_head
        t = technique
        self.format = register(
            Format(f"bipolar{t.wbits}-g{t.group}", t.wbits, t.group, FACTOR_BITS, matmul="int1")
        )
        self.counters = {"products": 0, "plane_products": 0}

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> BipolarMatrix:
        """The matrix in bipolar integers; None makes one that holds shapes only."""
        t, tensors = self.technique, dict[str, torch.Tensor]()
        if weight is not None:
            tensors = encode(weight, t.wbits, t.group)
        return BipolarMatrix(self.format, out_features, in_features, tensors, self.counters, t.abits)


class BipolarMatrix(PlaneMatrix):
    """A matrix in bipolar integers with a scale per group. abits: bits of the activations."""

    coded = False

    def __init__(
        self,
        fmt: Format,
        out_features: int,
        in_features: int,
        tensors: dict[str, torch.Tensor],
        counters: dict[str, int],
        abits: int,
    ) -> None:
        super().__init__(fmt, out_features, in_features, tensors, counters)
        self.abits = abits

    @property
    def activation_bits(self) -> int:
        """Bits that activations are rounded to."""
        return self.abits

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The stored values, [out, in]."""
        if self.strips is not None:
            return self.strips.widen().to(dtype)
        weights = torch.exp2(torch.arange(self.planes, device=self.tensors["planes"].device))
        values = torch.einsum("p,opi->oi", weights, self.signs())
        return (values * self.per_column(self.tensors["factors"][..., 0].float())).to(dtype)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """`x` [tokens, in] rounded to bipolar integers, times their scales."""
        codes, scales = round_activations(x, self.abits, self.group)
        return (codes * self.per_column(scales)).to(x.dtype)

    def compute(self, activations: Precision) -> Precision:
        """Bits are multiplied."""
        del activations
        return "int1"

    def op(self, tokens: int, activations: Precision) -> Linear:
        """The op that multiplies `tokens` rows by this matrix; counted."""
        pairs = self.planes * self.abits
        self.counters["plane_products"] += pairs
        return in_place_of(super().op(tokens, activations), BitPlaneLinear, plane_pairs=pairs)

    def vector_flop(self, tokens: int) -> int:
        """Rounding the activations (magnitude, divide, round, clamp) and taking them apart bit by bit.
        Shifting and adding the products of planes is part of these, in registers."""
        return (4 + self.abits) * tokens * self.in_features


def encode(weight: torch.Tensor, bits: int, group: int) -> dict[str, torch.Tensor]:
    """`weight` [out, in] as `planes` and `factors` (see `PlaneMatrix`), one scale a group. ValueError for
    values that are not finite."""
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("technique bipolar-int: weights must be finite")
    codes, scales = [], []
    for piece in in_groups(weight.float(), group):
        rows, count, width = piece.shape
        flat = piece.reshape(-1, width)
        step = max(1, _CHUNK // width)
        found = [_nearest(flat[at : at + step], bits) for at in range(0, len(flat), step)]
        codes.append(torch.cat([c for c, _ in found]).view(rows, count * width))
        scales.append(torch.cat([s for _, s in found]).view(rows, count, 1))
    planes = planes_of(torch.cat(codes, 1), bits)
    return {"planes": planes, "factors": torch.cat(scales, 1).half()}


def _nearest(groups: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 [n, g] and scales [n] of `groups` [n, g] with the least squared error among `_CLIPS`."""
    most = float((1 << bits) - 1)
    largest = groups.abs().amax(-1, keepdim=True)
    best = torch.full_like(largest, -1.0)
    scale = torch.zeros_like(largest)
    clip = torch.ones_like(largest)
    for share in _CLIPS[:1] if bits == 1 else _CLIPS:  # of one bit only signs count
        values = _odd(groups, largest * share, most)
        # With the scale that fits these codes best, the square of this is what they take off the error.
        dot, norm = (groups * values).sum(-1, keepdim=True), values.square().sum(-1, keepdim=True)
        better = dot / norm.sqrt() > best
        best = torch.where(better, dot / norm.sqrt(), best)
        scale = torch.where(better, dot / norm, scale)
        clip = torch.where(better, largest * share, clip)
    codes = (_odd(groups, clip, most) + most) / 2
    return codes.to(torch.uint8), scale.squeeze(-1)


def _odd(x: torch.Tensor, largest: torch.Tensor, most: float) -> torch.Tensor:
    """The nearest odd numbers from -most to most to `x` in units of largest / most, as floats."""
    inverse = torch.where(largest >= _TINY, most / largest, 0.0)
    return 2.0 * ((x * inverse + most) * 0.5).round().clamp(0.0, most) - most


def round_activations(x: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, I] as odd numbers of `bits`, float32 [T, I], and their scales [T, groups]; a group that is not
    finite gets NaN for its scale."""
    most = float((1 << bits) - 1)
    values, scales = [], []
    for piece in in_groups(x.float(), group):
        largest = piece.abs().amax(-1, keepdim=True)
        finite = torch.isfinite(largest)
        safe = torch.where(finite, piece, 0.0)
        values.append(_odd(safe, torch.where(finite, largest, 0.0), most).flatten(1))
        scales.append(torch.where(finite, largest / most, float("nan")).squeeze(-1))
    return torch.cat(values, 1), torch.cat(scales, 1)


@reference(BitPlaneLinear)
def bit_planes(
    op: BitPlaneLinear, x: torch.Tensor, weight: BipolarMatrix, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x [T, I] to [T, O]: the product of every pair of planes, shifted and added; a matrix in strips is
    widened."""
    if weight.strips is not None:
        return F.linear(weight.prepare(x), weight.widen(x.dtype), bias)
    codes, scales = round_activations(x, weight.abits, weight.group)
    bits = ((codes + (1 << weight.abits) - 1) / 2).long()
    theirs, factors = weight.signs(), weight.tensors["factors"][..., 0].float()
    y = torch.zeros(op.tokens, op.out_features, device=x.device)
    for g in range(weight.num_groups):
        columns = slice(g * weight.group, min(g * weight.group + weight.group, op.in_features))
        total = torch.zeros_like(y)
        for j in range(weight.abits):
            mine = 2.0 * ((bits[:, columns] >> j) & 1) - 1.0
            for i in range(weight.planes):
                total += F.linear(mine, theirs[:, i, columns]) * float(1 << (i + j))
        y += total * (factors[:, g] * scales[:, g, None])
    return (y if bias is None else y + bias).to(x.dtype)
