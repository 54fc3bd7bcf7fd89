"""Claims of arXiv:2510.25602 that need no model: signal kept by each format, and where integers and floats
cross over.

The source averages QSNR over tensors of one training step of Llama-3.1-8B. What decides QSNR is the crest
factor, whose quartiles over those tensors it publishes (table 2). So the formats are run here on synthetic
tensors with the crest factors of the first and the third quartile, and the outcome is the interval between
the two.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from twofold.claims.ledger import Outcome
from twofold.techniques.weights.fidelity import crest_factor, crossover, format_study

# Table 2: first and third quartile of the crest factor before rotation, by block size.
QUARTILES: dict[int, tuple[float, float]] = {32: (2.40, 2.96), 16: (2.13, 2.39)}
_SHAPE = (256, 2048)
_SEED = 0


@lru_cache(maxsize=8)
def sample(crest: float, block: int) -> torch.Tensor:
    """A tensor whose blocks have the mean crest factor `crest`: Gaussian values times log-normal magnitudes.

    The width of the log-normal is found by bisection; at zero the tensor is Gaussian, whose crest factor is
    the least that can be asked for (ValueError below it, and above what a log-normal width of 2 gives).
    """
    generator = torch.Generator().manual_seed(_SEED)
    gaussian = torch.randn(_SHAPE, generator=generator)
    spread = torch.randn(_SHAPE, generator=generator)

    def draw(width: float) -> torch.Tensor:
        return gaussian * torch.exp(width * spread)

    low, high = 0.0, 2.0
    if not crest_factor(draw(low), block) <= crest <= crest_factor(draw(high), block):
        raise ValueError(f"no sample of blocks of {block} with a crest factor of {crest}")
    for _ in range(20):
        middle = (low + high) / 2.0
        low, high = (middle, high) if crest_factor(draw(middle), block) < crest else (low, middle)
    return draw(low)


def _gain(integer: str, floating: str, block: int, *, rotated: bool = False) -> Outcome:
    gains, seen = [], []
    for crest in QUARTILES[block]:
        kept = format_study(sample(crest, block), (integer, floating), rotated=rotated)
        gains.append(kept[integer] - kept[floating])
        seen.append(f"crest factor {crest}: {kept[integer]:.2f} and {kept[floating]:.2f} dB")
    return Outcome(
        ours=(min(gains), max(gains)),
        why="synthetic tensors at the quartiles of the source's crest factors, not the source's tensors",
        how=f"{integer} and {floating}{', both rotated' if rotated else ''}: {'; '.join(seen)}",
    )


def mxint8_over_mxfp8() -> Outcome:
    """QSNR of mxint8 less that of mxfp8, dB."""
    return _gain("mxint8", "mxfp8", 32)


def mxint6_over_mxfp6() -> Outcome:
    """QSNR of mxint6 less that of mxfp6, dB."""
    return _gain("mxint6", "mxfp6", 32)


def mxint4_over_mxfp4() -> Outcome:
    """QSNR of mxint4 less that of mxfp4, dB."""
    return _gain("mxint4", "mxfp4", 32)


def nvint4_over_nvfp4() -> Outcome:
    """QSNR of nvint4 less that of nvfp4, dB."""
    return _gain("nvint4", "nvfp4", 16)


def nvint4_over_nvfp4_rotated() -> Outcome:
    """The same after a random Hadamard rotation by the block size, dB."""
    return _gain("nvint4", "nvfp4", 16, rotated=True)


def _crossover(integer: str, floating: str, why: str) -> Outcome:
    at = crossover(integer, floating)
    return Outcome((at, at), why, f"theorems 1 and 2 for {integer} and {floating}, solved by bisection")


def crossover_mxint8() -> Outcome:
    """Crest factor up to which mxint8 is ahead of mxfp8."""
    why = "the same formulas; no block of 32 reaches it: a crest factor is at most the root of the block size"
    return _crossover("mxint8", "mxfp8", why)


def crossover_mxint6() -> Outcome:
    """Crest factor up to which mxint6 is ahead of mxfp6."""
    return _crossover("mxint6", "mxfp6", "the same formulas")


def crossover_mxint4() -> Outcome:
    """Crest factor up to which mxint4 is ahead of mxfp4."""
    return _crossover("mxint4", "mxfp4", "the same formulas")


def crossover_nvint4() -> Outcome:
    """Crest factor up to which nvint4 is ahead of nvfp4."""
    why = (
        "the formulas as printed; a scale overhead of 1.05 in place of 1 gives the source's 2.39 and 21.14 dB"
    )
    return _crossover("nvint4", "nvfp4", why)
