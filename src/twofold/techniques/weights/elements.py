"""Low-bit number types: symmetric integers and small floats, their code tables, and rounding to them.

A float type ExMy has x exponent and y mantissa bits, bias 2^(x-1) - 1 and subnormals; it decodes as OCP
Microscaling v1.0 and OCP 8-bit floating point v1.0 define it. None of them has infinities; E4M3 alone keeps
one code per sign for NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

_F32_MANTISSA = 23
_F32_EXPONENT_MASK = 0x7F800000


@dataclass(frozen=True, slots=True)
class Element:
    """A number type of `bits` bits; an integer where `exponent_bits` is 0, else a float with sign, exponent,
    mantissa.

    nan: the largest code of each sign stands for NaN.
    """

    name: str
    bits: int
    exponent_bits: int = 0
    mantissa_bits: int = 0
    nan: bool = False

    @property
    def integer(self) -> bool:
        """Whether the type is an integer."""
        return self.exponent_bits == 0

    @property
    def bias(self) -> int:
        """Exponent bias of a float type."""
        return int(2 ** (self.exponent_bits - 1)) - 1

    @property
    def smallest_normal(self) -> float:
        """Least positive value with a leading one (1 for integers)."""
        return 1.0 if self.integer else 2.0 ** (1 - self.bias)

    @property
    def maximum(self) -> float:
        """Largest value. Integers leave out -2^(bits-1), so that the range is symmetric around zero."""
        if self.integer:
            return float(2 ** (self.bits - 1) - 1)
        return self.decode((1 << self.bits - 1) - 1 - self.nan)

    def decode(self, code: int) -> float:
        """The value of one code: two's complement, or sign, exponent and mantissa."""
        half = 1 << self.bits - 1
        if self.integer:
            return float(code - 2 * half if code >= half else code)
        sign, magnitude = (-1.0 if code >= half else 1.0), code % half
        if self.nan and magnitude == half - 1:
            return float("nan")
        exponent, mantissa = divmod(magnitude, 1 << self.mantissa_bits)
        fraction = mantissa / (1 << self.mantissa_bits)
        if exponent == 0:
            return sign * fraction * self.smallest_normal
        return float(sign * (1.0 + fraction) * 2.0 ** (exponent - self.bias))

    def table(self, device: torch.device | None = None) -> torch.Tensor:
        """All values by code, float32 [2^bits]. Shared: do not write to it."""
        return _table(self, device or torch.device("cpu"))

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """float32 `x` to the nearest value of the type, ties to even, saturating. NaN stays NaN."""
        x = x.clamp(-self.maximum, self.maximum)
        if self.integer:
            return x.round_()
        # The exponent bits alone are the power of two below |x|: exact, unlike a logarithm.
        binade = (x.view(torch.int32) & _F32_EXPONENT_MASK).view(torch.float32)
        step = binade.clamp_(min=self.smallest_normal).mul_(2.0**-self.mantissa_bits)
        return x.div_(step).round_().mul_(step)

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Codes (uint8, one a byte, unused high bits zero) of float32 `values` that `round` has returned."""
        if self.integer:
            return values.to(torch.int8).view(torch.uint8).bitwise_and_(2**self.bits - 1)
        m = self.mantissa_bits
        magnitude = values.abs()
        # Above the subnormals, a code is the float32's own exponent and leading mantissa bits with the bias
        # exchanged.
        normal = (magnitude.view(torch.int32) >> (_F32_MANTISSA - m)) - ((127 - self.bias) << m)
        subnormal = (magnitude * (2.0**m / self.smallest_normal)).to(torch.int32)
        code = torch.where(magnitude < self.smallest_normal, subnormal, normal)
        return torch.add(code, values < 0, alpha=1 << self.bits - 1).to(torch.uint8)


@lru_cache(maxsize=64)
def _table(element: Element, device: torch.device) -> torch.Tensor:
    values = [element.decode(code) for code in range(1 << element.bits)]
    return torch.tensor(values, dtype=torch.float32, device=device)


INT8 = Element("int8", 8)
INT6 = Element("int6", 6)
INT4 = Element("int4", 4)
INT3 = Element("int3", 3)
E4M3 = Element("e4m3", 8, 4, 3, nan=True)
E2M3 = Element("e2m3", 6, 2, 3)
E2M1 = Element("e2m1", 4, 2, 1)
