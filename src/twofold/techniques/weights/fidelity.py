"""How much of a signal survives a format: QSNR measured on tensors, and QSNR predicted from the crest factor.

Sources: equations (10), (11), (13) and (14) of arXiv:2510.25602.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from twofold.techniques.weights.block_formats import BlockFormat, block_format
from twofold.techniques.weights.hadamard import rotate
from twofold.techniques.weights.scales import E8M0

# Mean factor by which rounding a scale up to a power of two enlarges it, as the source assumes for E8M0.
E8M0_OVERHEAD = 1.5


def qsnr(x: torch.Tensor, rounded: torch.Tensor) -> float:
    """Quantisation signal-to-noise ratio in dB over the whole tensor; infinite where nothing changed."""
    x = x.double()
    noise = (x - rounded.double()).square().sum().item()
    signal = x.square().sum().item()
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def crest_factor(x: torch.Tensor, block: int) -> float:
    """Largest magnitude over root mean square of blocks of the last dimension, averaged over blocks.

    Blocks of zeros do not count (nan where there are no others). ValueError for a dimension that `block` does
    not divide.
    """
    if x.shape[-1] % block:
        raise ValueError(f"{x.shape[-1]} elements are not a whole number of blocks of {block}")
    blocks = x.float().reshape(-1, block)
    rms = blocks.square().mean(-1).sqrt()
    return (blocks.abs().amax(-1) / rms)[rms > 0].mean().item()


def format_study(x: torch.Tensor, formats: Iterable[str], *, rotated: bool = False) -> dict[str, float]:
    """QSNR in dB of `x` [..., n] rounded to each of `formats`, by name.

    rotated: after a random Hadamard rotation by each format's block size.
    """
    out = {}
    for name in formats:
        fmt = block_format(name)
        y = rotate(x.float(), fmt.block) if rotated else x.float()
        out[name] = qsnr(y, fmt.round(y))
    return out


def theoretical_qsnr(fmt: BlockFormat, crest: float) -> float:
    """QSNR in dB of Gaussian blocks of crest factor `crest`: theorem 1 for integers, theorem 2 for floats.

    Defined for MX and NV formats; ValueError for a crest factor outside 1 to the square root of the block for
    NV floats, where the exactly stored maximum would hold more than all of the energy.
    """
    element, g = fmt.element, fmt.block
    power_of_two = isinstance(fmt.scale, E8M0)
    rho = E8M0_OVERHEAD if power_of_two else 1.0
    if element.integer:
        gain = 0.0 if power_of_two else 10.0 * math.log10(g / (g - 1))
        return 4.78 + 6.02 * element.bits - 20.0 * math.log10(rho * crest) + gain
    m = element.mantissa_bits
    step_energy = 1.0 / (24.0 * 2.0 ** (2 * m))
    subnormal_step = 2.0 ** (2 * (1 - element.bias - m)) / (12.0 * element.maximum**2)
    threshold = rho * crest * element.smallest_normal / element.maximum
    subnormal = math.erf(threshold / math.sqrt(2.0))
    normal_energy = (
        1.0 - subnormal + 2.0 * threshold * math.exp(-(threshold**2) / 2.0) / math.sqrt(2.0 * math.pi)
    )
    if not power_of_two:
        normal_energy -= crest**2 / g
    noise = step_energy * normal_energy + subnormal_step * (rho * crest) ** 2 * subnormal
    if noise <= 0.0:
        raise ValueError(f"a block of {g} cannot have a crest factor of {crest}; at most {math.sqrt(g):.3g}")
    return -10.0 * math.log10(noise)


def crossover(integer: str, floating: str) -> float:
    """The crest factor up to which format `integer` keeps at least the theoretical QSNR of format `floating`.

    Found by bisection between 1 and, for NV formats, the largest that a block can have (16 for MX formats,
    whose formulas have no such end). ValueError where the two do not cross there.
    """
    a, b = block_format(integer), block_format(floating)

    def lead(crest: float) -> float:
        return theoretical_qsnr(a, crest) - theoretical_qsnr(b, crest)

    # Close to the end the NV formula has next to no noise left and says nothing.
    low, high = 1.0, 16.0 if isinstance(b.scale, E8M0) else 0.95 * math.sqrt(b.block)
    if not lead(low) > 0.0 > lead(high):
        raise ValueError(f"{integer} and {floating} do not cross between crest factors {low} and {high:.3g}")
    while high - low > 1e-9:
        middle = (low + high) / 2.0
        low, high = (middle, high) if lead(middle) > 0.0 else (low, middle)
    return low
