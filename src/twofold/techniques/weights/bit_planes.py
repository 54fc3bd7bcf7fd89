"""Weight matrices stored as bit planes with factors for groups of columns: what the formats of binary codes
and of bipolar integers share.

Native CPU kernels multiply the planes as they are stored, in strips of 16 rows. Matrices whose rows do not
fill strips, or whose columns or groups are not whole blocks of 32, run on the reference kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from twofold.kernels.cpu.planes import Planes, can_hold, pack
from twofold.ops.formats import Format
from twofold.techniques.weights.counted import CountedMatrix

FACTOR_BITS = 16
"""Factors are stored in float16, as in LUT-GEMM."""


class PlaneMatrix(CountedMatrix):
    """Packed bits and factors, or after `interleave` strips of both; no float copy is kept.

    tensors: `planes` uint8 [out, planes, in / 8], bit k % 8 of byte k / 8 for column k; `factors` float16
    [out, groups, factors]. coded: whether they are binary codes (`kernels.cpu.planes.Planes`).
    """

    coded: bool

    def __init__(
        self,
        fmt: Format,
        out_features: int,
        in_features: int,
        tensors: Mapping[str, torch.Tensor],
        counters: dict[str, int],
    ) -> None:
        super().__init__(fmt, out_features, in_features, tensors)
        self.counters = counters
        self.planes, self.group = fmt.bits, fmt.block

    @property
    def num_groups(self) -> int:
        """Groups of a row; the last may have fewer columns."""
        return -(-self.in_features // self.group)

    @property
    def nbytes(self) -> int:
        """Bytes of bits and factors; the last group of a row is not filled up."""
        row = self.planes * -(-self.in_features // 8) + self.num_groups * self.format.block_overhead // 8
        return self.out_features * row

    def signs(self) -> torch.Tensor:
        """Bits as -1 and 1, float32 [out, planes, in]; of a matrix that is not in strips."""
        return 2.0 * unpack_bits(self.tensors["planes"], self.in_features) - 1.0

    def interleave(self) -> None:
        """Planes and factors become strips, `packed`, where native kernels can multiply these."""
        held = self.tensors
        if not held or self.strips is not None or held["planes"].device.type != "cpu":
            return
        if not can_hold(self.group, self.out_features, self.in_features):
            return
        packed = pack(self.coded, held["planes"], held["factors"], self.group, self.in_features)
        self.tensors = {"packed": packed}
        self.strips = Planes(
            self.coded,
            self.planes,
            self.group,
            self.out_features,
            self.in_features,
            packed,
            self.activation_bits,
        )

    @property
    def activation_bits(self) -> int:
        """Bits that activations are rounded to; 0 where they are not."""
        return 0

    def per_column(self, factors: torch.Tensor) -> torch.Tensor:
        """Factors [..., groups] repeated for every column, [..., in]."""
        return factors.repeat_interleave(self.group, -1)[..., : self.in_features]


def pack_bits(bits: torch.Tensor) -> torch.Tensor:
    """Bits [..., n] (0 or 1, or bool) to bytes [..., ceil(n / 8)], the first in the lowest bit."""
    padded = F.pad(bits.to(torch.uint8), (0, -bits.shape[-1] % 8))
    eight = padded.reshape(-1).view(torch.int64)
    # The product moves the lowest bit of byte j to bit 56 + j.
    packed = ((eight * 0x0102040810204080) >> 56 & 255).to(torch.uint8)
    return packed.view(*bits.shape[:-1], padded.shape[-1] // 8)


def unpack_bits(packed: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` bits of bytes [..., m], uint8 [..., count]."""
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :count]


def planes_of(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [out, in] of so many bits as packed planes, uint8 [out, bits, ceil(in / 8)]."""
    return torch.stack([pack_bits((codes >> i) & 1) for i in range(bits)], 1)


def in_groups(weight: torch.Tensor, group: int) -> list[torch.Tensor]:
    """The rows of `weight` [out, in] cut into groups, [out, groups, group]; a shorter last group apart,
    [out, 1, rest]."""
    whole = weight.shape[1] // group * group
    pieces = []
    if whole:
        pieces.append(weight[:, :whole].reshape(len(weight), -1, group))
    if whole < weight.shape[1]:
        pieces.append(weight[:, None, whole:])
    return pieces
