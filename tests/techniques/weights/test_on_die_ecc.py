"""Errors in flash and their correction: what is protected stays, what cannot be true is cleared."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_engine

from twofold.techniques.weights.flash_pages import PAGE, PROTECTED, FlashPages, code_bits
from twofold.techniques.weights.on_die_ecc import OnDieEcc

RATE = 2e-4


def weights(pages: int = 64) -> torch.Tensor:
    """Bell-shaped integers with outliers, as uint8 in two's complement."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(pages, PAGE, generator=generator) * 8
    values[:, ::331] *= 8
    return values.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)


def read(stored: torch.Tensor, rate: float, copies: int) -> tuple[torch.Tensor, dict[str, int]]:
    """Values as read, and what was counted."""
    counters = {"bits_flipped": 0, "weights_wrong": 0}
    return FlashPages(rate, copies, counters).read(stored).view(torch.int8).int(), counters


def test_errors_are_as_many_as_asked_for() -> None:
    """Without correction: the rate of flipped bits, and as good as one wrong weight for each."""
    stored = weights()
    found, counters = read(stored, RATE, 0)
    expected = stored.numel() * 8 * RATE
    assert counters["bits_flipped"] == pytest.approx(expected, rel=0.05)
    assert counters["weights_wrong"] == pytest.approx(counters["bits_flipped"], rel=0.01)
    assert counters["weights_wrong"] == int((found != stored.view(torch.int8).int()).sum())


def test_largest_weights_survive() -> None:
    """At a rate at which a few hundred of them would be wrong, a few of those protected are."""
    stored = weights()
    true = stored.view(torch.int8).int()
    largest = true.abs().topk(PROTECTED).indices
    wrong = {}
    for copies in (0, 2, 4):
        found, _ = read(stored, 5e-3, copies)
        wrong[copies] = int((found.gather(1, largest) != true.gather(1, largest)).sum())
    assert wrong[0] > 300
    assert wrong[2] < wrong[0] / 8
    assert wrong[4] < wrong[0] / 8


def test_protected_bits_fail_as_the_source_says() -> None:
    """With two copies a bit is wrong where two of three are: 3 x^2."""
    rate, stored = 2e-2, weights(256)
    true = stored.view(torch.int8).int()
    largest = true.abs().topk(PROTECTED).indices
    found, _ = read(stored, rate, 2)
    ours, theirs = (x.gather(1, largest).to(torch.uint8) for x in (found, true))
    # Positions with two flipped bits of 19 leave a weight unprotected: those are taken out as expected.
    lost = 1 - (1 - rate) ** 19 - 19 * rate * (1 - rate) ** 18
    share = float((ours != theirs).float().mean())
    expected = (1 - lost) * (1 - (1 - 3 * rate**2) ** 8) + lost
    assert 0.5 * expected < share < 1.1 * expected


def test_no_small_weight_becomes_large() -> None:
    """What would exceed the protected ones is cleared; errors are far smaller in sum."""
    stored = weights()
    true = stored.view(torch.int8).int()
    threshold = true.abs().topk(PROTECTED).values[:, -1:]
    raw, _ = read(stored, RATE, 0)
    corrected, _ = read(stored, RATE, 2)
    small = true.abs() < threshold
    assert (raw.abs() > threshold)[small].any()
    assert not (corrected.abs() > threshold)[small].any()
    assert (corrected - true).square().sum() < 0.2 * (raw - true).square().sum()


def test_code_fits_the_spare_area() -> None:
    """The source counts 722 bytes of the 1,664 that a page has."""
    assert 722 <= code_bits(2) / 8 < 723


def test_products_are_nearer_to_the_truth() -> None:
    """Of weights with outliers, as large models have them."""
    stored = weights()
    true = stored.view(torch.int8).float()
    x = torch.randn(PAGE, 4, generator=torch.Generator().manual_seed(5))
    raw, corrected = (read(stored, RATE, copies)[0].float() for copies in (0, 2))
    assert (corrected @ x - true @ x).norm() < 0.5 * (raw @ x - true @ x).norm()


def test_errors_show_in_a_model() -> None:
    """A model whose weights were read wrong says something else, and the same again."""
    ids = list(range(5, 37))
    true = tiny_engine(techniques=[{"name": "smoothquant"}]).score(ids, 8)
    one, other = (tiny_engine(techniques=[{"name": "on-die-ecc"}]) for _ in range(2))
    logits = one.score(ids, 8)
    assert (logits - true).norm() > 0
    assert torch.equal(logits, other.score(ids, 8))
    assert one.actives[0].technique.info.name == "on-die-ecc"
    assert one.actives[0].counters["bits_flipped"] > 0


def test_parameters_are_checked() -> None:
    """By name, with what is allowed."""
    with pytest.raises(ValueError, match="use smoothquant"):
        OnDieEcc(error_rate=0.0)
    with pytest.raises(ValueError, match="even number"):
        OnDieEcc(copies=3)
    with pytest.raises(ValueError, match="alpha"):
        OnDieEcc(alpha=2.0)
