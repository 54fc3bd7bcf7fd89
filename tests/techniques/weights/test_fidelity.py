"""QSNR: its definition, the orders that theory demands, and theory against measurement."""

from __future__ import annotations

import math

import pytest
import torch

from twofold.techniques.weights.block_formats import BLOCK_FORMATS, block_format
from twofold.techniques.weights.fidelity import (
    crest_factor,
    crossover,
    format_study,
    qsnr,
    theoretical_qsnr,
)


@pytest.fixture(scope="module")
def gaussian() -> torch.Tensor:
    return torch.randn(512, 1024, generator=torch.Generator().manual_seed(0))


def test_qsnr_by_hand() -> None:
    x = torch.tensor([3.0, 4.0])
    assert qsnr(x, x) == math.inf
    assert qsnr(x, torch.tensor([3.0, 4.5])) == pytest.approx(20.0)  # 25 / 0.25
    assert qsnr(torch.zeros(2), torch.ones(2)) == -math.inf


def test_crest_factor_by_hand() -> None:
    x = torch.tensor([[1.0, -1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0]])
    assert crest_factor(x, 4) == pytest.approx((1.0 + 2.0) / 2)
    with pytest.raises(ValueError, match=r"^12 elements are not a whole number of blocks of 5"):
        crest_factor(x, 5)


def test_more_bits_keep_more(gaussian: torch.Tensor) -> None:
    kept = format_study(gaussian, BLOCK_FORMATS)
    assert kept["mxint8"] > kept["mxint6"] > kept["mxint4"]
    assert kept["mxfp8"] > kept["mxfp6"] > kept["mxfp4"]
    assert kept["int4-g32"] > kept["int4-g64"] > kept["int4-g128"]
    assert kept["nvint4"] > kept["mxint4"]
    assert kept["nvfp4"] > kept["mxfp4"]


def test_a_bit_more_of_an_integer_is_six_decibel(gaussian: torch.Tensor) -> None:
    kept = format_study(gaussian, ("mxint8", "mxint6"))
    assert (kept["mxint8"] - kept["mxint6"]) / 2 == pytest.approx(6.02, abs=0.15)


@pytest.mark.parametrize("name", [n for n in BLOCK_FORMATS if "-g" not in n])
def test_theory_is_close_to_measurement(gaussian: torch.Tensor, name: str) -> None:
    fmt = block_format(name)
    crest = crest_factor(gaussian, fmt.block)
    # Theorem 1 takes 2^(bits-1) for the largest integer, which flatters 4 bits by
    # 20 log10(8 / 7) = 1.16 dB; an E8M0 scale is not always 1.5 times too large.
    assert format_study(gaussian, [name])[name] == pytest.approx(theoretical_qsnr(fmt, crest), abs=1.5)


def test_rotation_changes_little_on_gaussians_and_much_on_outliers(gaussian: torch.Tensor) -> None:
    plain, rotated = (format_study(gaussian, ["mxint4"], rotated=r)["mxint4"] for r in (False, True))
    assert rotated == pytest.approx(plain, abs=0.1)
    spiky = gaussian.clone()
    spiky[:, ::32] *= 10.0
    plain, rotated = (format_study(spiky, ["nvint4"], rotated=r)["nvint4"] for r in (False, True))
    assert rotated > plain + 1.0


@pytest.mark.parametrize(
    ("integer", "floating", "crest", "decibel"),
    [("mxint8", "mxfp8", 7.55, 31.86), ("mxint6", "mxfp6", 1.96, 31.54), ("mxint4", "mxfp4", 2.04, 19.14)],
)
def test_crossovers_are_the_published_ones(integer: str, floating: str, crest: float, decibel: float) -> None:
    at = crossover(integer, floating)
    assert at == pytest.approx(crest, abs=0.006)
    assert theoretical_qsnr(block_format(integer), at) == pytest.approx(decibel, abs=0.006)
    assert theoretical_qsnr(block_format(floating), at) == pytest.approx(decibel, abs=0.006)


def test_formats_that_never_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="mxint8 and mxfp4 do not cross"):
        crossover("mxint8", "mxfp4")


def test_an_impossible_crest_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="a block of 16 cannot have a crest factor of 9; at most 4"):
        theoretical_qsnr(block_format("nvfp4"), 9)
