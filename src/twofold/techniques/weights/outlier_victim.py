"""Outlier-victim pairs: numbers of 4 or 8 bits, two by two, in which an outlier may take its neighbour's
place.

Normal values are int4, flint4 (arXiv:2208.14286) or int8 without their smallest value, whose code marks a
victim: the number beside it is then an outlier in abfloat, sign · (2^m + mantissa) << (exponent + bias), and
the victim itself is zero. Every pair keeps its place and its bits. Source: OliVe, arXiv:2304.07493, section
3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from twofold.kernels.cpu import native

_SEARCH_PAIRS = 64
"""Most pairs of a row, evenly spaced, that the search for its scale looks at: it then takes seconds a
model."""
_CHUNK = 1 << 18
_SHARES = tuple(0.75 + 0.125 * i for i in range(15))
"""Largest normal values that are tried, in units of three standard deviations: 0.75 to 2.5, as in the
source's own scripts."""


@dataclass(frozen=True, slots=True)
class PairType:
    """A type of pairs; values in units of the scale. name: as native kernels call it; normal: the largest
    normal value; least, most: the smallest and the largest outlier; mantissa: bits of an outlier's
    mantissa."""

    name: str
    bits: int
    normal: float
    least: float
    most: float
    mantissa: int

    @property
    def threshold(self) -> float:
        """The magnitude above which the nearest value is an outlier."""
        return (self.normal + self.least) / 2.0

    @property
    def victim(self) -> int:
        """The code of a victim: the sign bit alone."""
        return 1 << (self.bits - 1)

    def round(self, units: torch.Tensor) -> torch.Tensor:
        """The nearest pairs to numbers in units of the scale, [..., even]. Of two outliers the larger stays,
        of equal ones the first."""
        pairs = in_pairs(units)
        size = pairs.abs()
        first = size[..., :1] >= size[..., 1:]
        kept = torch.cat((first, ~first), -1)
        outlier = (size > self.threshold).any(-1, keepdim=True)
        return torch.where(outlier, self._outliers(pairs) * kept, self._normal(pairs)).flatten(-2)

    def errors(self, rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Mean squared error of `rows` [n, even] rounded in units of `scales` [n], float32 [n]."""
        module = native()
        if module is None or rows.device.type != "cpu":
            return (self.round(rows / scales[:, None]) * scales[:, None] - rows).square().mean(-1)
        rows, scales, out = rows.contiguous(), scales.contiguous(), torch.empty(len(rows))
        module.pair_errors(self.name, rows.data_ptr(), scales.data_ptr(), *rows.shape, out.data_ptr())
        return out

    def pack(self, rows: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """The codes of `rows` [n, even] in units of `scales` [n], as `encode` returns them."""
        module = native()
        if module is None or rows.device.type != "cpu":
            return self.encode(self.round(rows / scales[:, None]))
        rows, scales = rows.contiguous(), scales.contiguous()
        out = torch.empty(len(rows), rows.shape[1] * self.bits // 8, dtype=torch.uint8)
        module.encode_pairs(self.name, rows.data_ptr(), scales.data_ptr(), *rows.shape, out.data_ptr())
        return out

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Codes of rounded values, [rows, even] to bytes [rows, bytes]; two codes of 4 bits a byte, the first
        in the low half."""
        size, negative = values.abs(), (values < 0).int()
        outlier = size > self.normal
        mantissa, exponent = torch.frexp(size)
        # (2^m + bits) << shift: frexp's mantissa is (2^m + bits) / 2^(m + 1).
        bits = (mantissa * 2 ** (self.mantissa + 1)).int() - (1 << self.mantissa)
        field = exponent - 1 - self.mantissa - self._bias
        special = negative << (self.bits - 1) | field << self.mantissa | bits
        codes = torch.where(outlier, special, self._normal_codes(values))
        beside = in_pairs(outlier).flip(-1).flatten(-2)
        codes = torch.where(beside, self.victim, codes).to(torch.uint8)
        return codes if self.bits == 8 else codes[:, 0::2] | codes[:, 1::2] << 4

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Bytes of `encode` to values in units of the scale, float32 [rows, even]."""
        if self.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
        codes = codes.int()
        victim = codes == self.victim
        outlier = in_pairs(victim).flip(-1).flatten(-2)
        fields = codes & (self.victim - 1)
        shift = (fields >> self.mantissa) + self._bias
        size = ((1 << self.mantissa) + (fields & ((1 << self.mantissa) - 1))) << shift
        special = torch.where(codes >= self.victim, -size, size)
        values = torch.where(outlier, special, self._normal_values(codes))
        return torch.where(victim, 0, values).float()

    @property
    def _bias(self) -> int:
        """What is added to an outlier's exponent, such that code 1 stands for `least`."""
        return (int(self.least) // ((1 << self.mantissa) + 1)).bit_length() - 1

    def _normal(self, units: torch.Tensor) -> torch.Tensor:
        if self.name != FLINT4.name:
            return units.round().clamp(-self.normal, self.normal)
        size = units.abs()
        small = (size + 0.5).floor().clamp(max=4.0)
        wide = torch.where(size >= 12, 16.0, torch.where(size >= 7, 8.0, 6.0))
        return torch.copysign(torch.where(size >= 5, wide, small), units)

    def _outliers(self, units: torch.Tensor) -> torch.Tensor:
        mantissa, exponent = torch.frexp(units.abs().clamp(max=2.0 * self.most))
        scale = 2.0 ** (self.mantissa + 1)
        size = torch.ldexp((mantissa * scale + 0.5).floor() / scale, exponent)
        return torch.copysign(size.clamp(self.least, self.most), units)

    def _normal_codes(self, values: torch.Tensor) -> torch.Tensor:
        if self.name != FLINT4.name:
            return values.clamp(-self.normal, self.normal).int() & ((1 << self.bits) - 1)
        table = torch.tensor(_FLINT, device=values.device)
        return torch.searchsorted(table, values.abs()).int() | (values < 0).int() << 3

    def _normal_values(self, codes: torch.Tensor) -> torch.Tensor:
        if self.name != FLINT4.name:
            return torch.where(codes > self.victim, codes - (1 << self.bits), codes)
        size = torch.tensor(_FLINT, device=codes.device).int()[(codes & 7).long()]
        return torch.where(codes > self.victim, -size, size)


_FLINT = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
INT4 = PairType("ovp-int4", 4, 7.0, 12.0, 96.0, 1)
FLINT4 = PairType("ovp-flint4", 4, 16.0, 24.0, 192.0, 1)
INT8 = PairType("ovp-int8", 8, 127.0, 144.0, 32768.0, 3)
"""Outliers end at 2^15, so that sums of their products fit 32 bits."""


def in_pairs(x: torch.Tensor) -> torch.Tensor:
    """The numbers of the last dimension two by two: [..., even] to [..., pairs, 2]."""
    return x.reshape(*x.shape[:-1], -1, 2)


def round_to_pairs(x: torch.Tensor, kind: PairType, scale: float) -> torch.Tensor:
    """`x` [..., even] rounded to pairs in units of `scale`, in float32."""
    factor = torch.tensor(scale, dtype=torch.float32, device=x.device)
    return kind.round(x.float() * (1.0 / factor)) * factor


def find_scales(
    rows: torch.Tensor, kind: PairType, *, sampled: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scale of each of `rows` [n, even] with the least squared error among `_SHARES`, and that error,
    both float32 [n]; sampled: seen on at most `_SEARCH_PAIRS` pairs of a row. A row of zeros gets scale 1."""
    wanted = in_pairs(rows)
    if sampled:
        wanted = wanted[:, :: max(1, wanted.shape[1] // _SEARCH_PAIRS)][:, :_SEARCH_PAIRS]
    sample = wanted.flatten(-2)
    size = max(1, _CHUNK // sample.shape[1])
    scales, errors = [], []
    for at in range(0, len(rows), size):
        mine, seen = rows[at : at + size].float(), sample[at : at + size].float()
        mean, deviation = mine.mean(-1), mine.std(-1, correction=0)
        largest = torch.maximum((mean + 3 * deviation).abs(), (mean - 3 * deviation).abs())
        base = torch.where(largest > 0, largest / kind.normal, 1.0)
        best = torch.full_like(base, torch.inf)
        scale = base.clone()
        for share in _SHARES:
            tried = base * share
            error = kind.errors(seen, tried)
            scale = torch.where(error < best, tried, scale)
            best = torch.minimum(best, error)
        scales.append(torch.where(largest > 0, scale, 1.0))
        errors.append(best)
    return torch.cat(scales), torch.cat(errors)


def choose_type(
    rows: torch.Tensor, kinds: tuple[PairType, ...], *, sampled: bool = True
) -> tuple[PairType, torch.Tensor]:
    """The type among `kinds` with the least squared error over all `rows` [n, even], and the scales."""
    found = [(find_scales(rows, kind, sampled=sampled), kind) for kind in kinds]
    (scales, _), kind = min(found, key=lambda one: float(one[0][1].sum()))
    return kind, scales
