"""LUT-GEMM: weights in binary codes; products for few tokens look sums up instead of widening the weights.

Source: "LUT-GEMM: Quantized Matrix Multiplication based on LUTs for Efficient Inference in Large-Scale
Generative Language Models", arXiv:2206.09557: q bit planes with a scale each and an offset for every group,
codes found by alternating optimisation (`binary_codes`), tables of the signed sums of mu activations.
Differs: the search starts from uniform codes, not greedily, so that its error never exceeds theirs
(rounds=0); native kernels take tables of 4 activations, which fit a vector register as those of 8 fit a GPU's
shared memory; products of more than TABLE_TOKENS tokens widen the weights, strip by strip, since tables would
cost more than they save.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from twofold.kernels.registry import reference
from twofold.ops.base import Precision
from twofold.ops.formats import Format, register
from twofold.ops.linear import Linear, LookUpLinear
from twofold.techniques.base import Claim, Info, Technique
from twofold.techniques.weights.binary_codes import binary_codes
from twofold.techniques.weights.bit_planes import FACTOR_BITS, PlaneMatrix, in_groups, planes_of
from twofold.techniques.weights.counted import in_place_of
from twofold.techniques.weights.linear_layers import BlockLinears

TABLE_TOKENS = 8
"""Most tokens for which a product looks sums up."""
_MOST_BITS = 8
_PAPER = "arXiv:2206.09557"
_MODEL = "OPT-175B"
_HARDWARE = "1 x A100 80 GB"


@dataclass(frozen=True)
class LutGemm(Technique):
    """Linear layers of all blocks in `q` bit planes; embeddings, norms and routers stay as they are.

    q: bits of a weight; g: weights of a row that share scales and an offset; mu: activations whose signed
    sums make a table (8 in the source; native kernels take 4, other values run on the reference kernel);
    rounds: of the search for codes (0: evenly spaced codes); lm_head: also store the output projection so.
    """

    q: int = 4
    g: int = 128
    mu: int = 4
    rounds: int = 15
    lm_head: bool = False

    info: ClassVar[Info] = Info(
        name="lut-gemm",
        title="LUT-GEMM: Quantized Matrix Multiplication based on LUTs for Efficient Inference in "
        "Large-Scale Generative Language Models",
        source=_PAPER,
        summary="stores linear layers as bit planes and multiplies by looking up sums of activations",
        seams=("weights",),
        lossless=False,
        provides=("weight-format",),
        excludes=("weight-format",),
    )
    claims: ClassVar[tuple[Claim, ...]] = (
        Claim(
            "latency-opt-175b",
            "latency of a token, 3 bits, OPTQ's kernel over tables",
            (2.1, 2.1),
            "×",
            "OPTQ, 3 bits, which widens",
            _MODEL,
            _HARDWARE,
            f"{_PAPER}, abstract",
            "latency_opt_175b",
        ),
    )

    def __post_init__(self) -> None:
        where = "technique lut-gemm"
        for name, value, low, high in (("q", self.q, 1, _MOST_BITS), ("mu", self.mu, 1, 8)):
            if not low <= value <= high:
                raise ValueError(f"{where}: {name} must be {low} to {high}, not {value}")
        if self.g < 8 or self.g % 8:
            raise ValueError(
                f"{where}: g must be a multiple of 8, not {self.g}; native kernels take multiples of 32 up "
                "to 256, such as 128"
            )
        if self.rounds < 0:
            raise ValueError(f"{where}: rounds must be 0 (evenly spaced codes) or more, not {self.rounds}")

    def weight_scheme(self) -> LutScheme:
        """Linear layers in binary codes."""
        return LutScheme(self)


class LutScheme(BlockLinears):
    """Stores the linear layers of all blocks, and the output projection if asked, in binary codes.

    counters: "products": products with matrices stored this way; "table_products": those computed from
    tables.
    """

    def __init__(self, technique: LutGemm) -> None:
        self.technique, self.lm_head = technique, technique.lm_head
        t = technique
        self.format = register(Format(f"bcq{t.q}-g{t.g}", t.q, t.g, FACTOR_BITS * (t.q + 1)))
        self.counters = {"products": 0, "table_products": 0}

    def pack(self, weight: torch.Tensor | None, out_features: int, in_features: int) -> CodedMatrix:
        """The matrix in binary codes; None makes one that holds shapes only."""
        t, tensors = self.technique, dict[str, torch.Tensor]()
        if weight is not None:
            tensors = encode(weight, t.q, t.g, t.rounds)
        return CodedMatrix(self.format, out_features, in_features, tensors, self.counters, t.mu)


class CodedMatrix(PlaneMatrix):
    """A matrix in binary codes: the sum of ± a factor per plane, and an offset. mu: activations of a
    table."""

    coded = True

    def __init__(
        self,
        fmt: Format,
        out_features: int,
        in_features: int,
        tensors: dict[str, torch.Tensor],
        counters: dict[str, int],
        mu: int,
    ) -> None:
        super().__init__(fmt, out_features, in_features, tensors, counters)
        self.mu = mu

    def widen(self, dtype: torch.dtype) -> torch.Tensor:
        """The values of the codes, [out, in]."""
        if self.strips is not None:
            return self.strips.widen().to(dtype)
        factors = self.tensors["factors"].float().mT  # [out, factors, groups]
        signs = self.signs()
        out = self.per_column(factors[:, -1]).clone()
        for i in range(self.planes):
            out += self.per_column(factors[:, i]) * signs[:, i]
        return out.to(dtype)

    def op(self, tokens: int, activations: Precision) -> Linear:
        """The op that multiplies `tokens` rows by this matrix, from tables where these are few; counted."""
        plain = super().op(tokens, activations)
        if tokens > TABLE_TOKENS:
            return plain
        self.counters["table_products"] += 1
        return in_place_of(plain, LookUpLinear, vector_flop=self.table_flop(tokens), mu=self.mu)

    def vector_flop(self, tokens: int) -> int:
        """Widening, which does not depend on `tokens`: an addition per plane."""
        del tokens
        return self.planes * self.out_features * self.in_features

    def table_flop(self, tokens: int) -> int:
        """Additions and multiplications of one product from tables (section 3.2 of the source): an addition
        for each entry, one for each sum that is looked up, and two for each factor."""
        tables = -(-self.in_features // self.mu)
        looked_up = self.planes * self.out_features * tables
        scaled = 2 * (self.planes + 1) * self.out_features * self.num_groups
        return tokens * ((tables << self.mu) + looked_up + scaled)


def encode(weight: torch.Tensor, bits: int, group: int, rounds: int) -> dict[str, torch.Tensor]:
    """`weight` [out, in] as `planes` and `factors` (see `PlaneMatrix`): alpha of every plane, then z.
    ValueError for values that are not finite."""
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("technique lut-gemm: weights must be finite")
    codes, factors = [], []
    for piece in in_groups(weight.float(), group):
        rows, count, width = piece.shape
        found = binary_codes(piece.reshape(-1, width), bits, rounds)
        codes.append(found.codes.view(rows, count * width))
        factors.append(torch.cat((found.alpha, found.z[:, None]), 1).view(rows, count, bits + 1))
    planes = planes_of(torch.cat(codes, 1), bits)
    return {"planes": planes, "factors": torch.cat(factors, 1).half()}


@reference(LookUpLinear)
def look_up(
    op: LookUpLinear, x: torch.Tensor, weight: CodedMatrix, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x [T, I] to [T, O] by tables of the signed sums of mu activations; a matrix in strips is widened."""
    if weight.strips is not None:
        return F.linear(x, weight.widen(x.dtype), bias)
    factors = weight.tensors["factors"].float()
    group, wide = weight.group, x.float()
    y = torch.zeros(op.tokens, op.out_features, device=x.device)
    bits = (weight.signs() > 0).long()
    for g in range(weight.num_groups):
        columns = slice(g * group, min(g * group + group, op.in_features))
        tables = signed_sums(wide[:, columns], op.mu)  # [T, tables, 2^mu]
        mine = _in_tables(bits[:, :, columns], op.mu)
        entries = (mine << torch.arange(op.mu, device=x.device)).sum(-1)  # [O, planes, tables]
        which = torch.arange(tables.shape[1], device=x.device)
        for i in range(weight.planes):
            y += tables[:, which, entries[:, i]].sum(-1) * factors[:, g, i]
        y += wide[:, columns].sum(-1, keepdim=True) * factors[:, g, -1]
    return (y if bias is None else y + bias).to(x.dtype)


def signed_sums(x: torch.Tensor, mu: int) -> torch.Tensor:
    """Of every `mu` of x [T, n] the sums with all signs, [T, ceil(n / mu), 2^mu]: bit j of an entry's number
    is set where the sign of activation j is plus. Each is one addition away from a sum of fewer."""
    parts = _in_tables(x, mu)
    table = torch.zeros(*parts.shape[:-1], 1, dtype=x.dtype, device=x.device)
    for j in range(mu):
        one = parts[..., j : j + 1]
        table = torch.cat((table - one, table + one), -1)
    return table


def _in_tables(x: torch.Tensor, mu: int) -> torch.Tensor:
    """The last dimension filled up with zeros and cut into parts of `mu`."""
    padded = F.pad(x, (0, -x.shape[-1] % mu))
    return padded.view(*padded.shape[:-1], -1, mu)
