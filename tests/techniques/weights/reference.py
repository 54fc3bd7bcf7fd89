"""A slow quantiser written from the definitions, to compare with: exact, nearest value by search."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import torch


class Definition(NamedTuple):
    """values: all values of the element type that are not negative, ascending; scale: kind of scale."""

    values: list[Fraction]
    block: int
    scale: str


def floats(exponent_bits: int, mantissa_bits: int, drop: int = 0) -> list[Fraction]:
    """Non-negative values of a float type, field by field; `drop` of the largest are not numbers."""
    bias = 2 ** (exponent_bits - 1) - 1
    out = []
    for exponent in range(2**exponent_bits):
        for mantissa in range(2**mantissa_bits):
            fraction = Fraction(mantissa, 2**mantissa_bits)
            if exponent == 0:
                out.append(fraction * Fraction(2) ** (1 - bias))
            else:
                out.append((1 + fraction) * Fraction(2) ** (exponent - bias))
    return out[: len(out) - drop]


def integers(bits: int) -> list[Fraction]:
    """Non-negative values of a symmetric integer type."""
    return [Fraction(i) for i in range(2 ** (bits - 1))]


DEFINITIONS = {
    "mxint8": Definition(integers(8), 32, "e8m0"),
    "mxfp8": Definition(floats(4, 3, drop=1), 32, "e8m0"),
    "mxint6": Definition(integers(6), 32, "e8m0"),
    "mxfp6": Definition(floats(2, 3), 32, "e8m0"),
    "mxint4": Definition(integers(4), 32, "e8m0"),
    "mxfp4": Definition(floats(2, 1), 32, "e8m0"),
    "nvint4": Definition(integers(4), 16, "e4m3"),
    "nvfp4": Definition(floats(2, 1), 16, "e4m3"),
    "int4-g32": Definition(integers(4), 32, "bf16"),
    "int4-g64": Definition(integers(4), 64, "bf16"),
    "int4-g128": Definition(integers(4), 128, "bf16"),
    **{
        f"int{bits}-g{size}": Definition(integers(bits), size, "bf16")
        for bits in (3, 8)
        for size in (32, 64, 128)
    },
}


def nearest(x: Fraction, values: list[Fraction]) -> Fraction:
    """The entry of `values` (ascending from zero) nearest to |x| (even-numbered on a tie), with x's sign."""
    best = min(range(len(values)), key=lambda i: (abs(values[i] - abs(x)), i % 2))
    return values[best] if x >= 0 else -values[best]


def e8m0(largest: Fraction, top: Fraction) -> Fraction:
    """The least power of two that scales `largest` to at most `top`, within the range of the type."""
    exponent = -127
    while exponent < 127 and top * Fraction(2) ** exponent < largest:
        exponent += 1
    return Fraction(2) ** exponent


def quantise(x: torch.Tensor, name: str) -> torch.Tensor:
    """[rows, cols] float32 to the values that format `name` keeps of it."""
    definition = DEFINITIONS[name]
    top, block = definition.values[-1], definition.block
    out = torch.empty_like(x)
    tensor_scale = (
        x.abs().max() / (float(top) * 448.0)
    ).item()  # float32 arithmetic, as the format stores it
    for row in range(x.shape[0]):
        for start in range(0, x.shape[1], block):
            part = x[row, start : start + block]
            largest = part.abs().max()
            if definition.scale == "e8m0":
                scale = float(e8m0(Fraction(largest.item()), top))
            elif definition.scale == "bf16":
                scale = (largest / float(top)).bfloat16().item()
            elif tensor_scale == 0.0 or largest == 0.0:
                scale = 0.0
            else:
                wanted = Fraction((largest / float(top) / torch.tensor(tensor_scale)).item())
                kept = max(nearest(wanted, floats(4, 3, drop=1)), Fraction(1, 512))
                scale = (torch.tensor(float(kept)) * tensor_scale).item()
            for i, value in enumerate(part):
                if scale == 0.0:
                    out[row, start + i] = 0.0
                    continue
                units = Fraction((value / torch.tensor(scale)).item())
                unit = float(nearest(units, definition.values))
                out[row, start + i] = torch.tensor(unit) * torch.tensor(scale)
    return out
