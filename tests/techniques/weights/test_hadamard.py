"""Rotation: orthogonal, deterministic, of any width; what it does to outliers; its counted work."""

from __future__ import annotations

import pytest
import torch

from twofold.techniques.weights.fidelity import crest_factor
from twofold.techniques.weights.hadamard import rotate, rotation_flop


def hadamard(size: int) -> torch.Tensor:
    """Sylvester's matrix, by its recursion."""
    h = torch.ones(1, 1)
    while len(h) < size:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return h


@pytest.mark.parametrize("size", [1, 2, 16, 32, 128])
def test_is_signs_times_hadamard(size: int) -> None:
    matrix = rotate(torch.eye(size), size)
    signs = matrix[:, 0] * size**0.5
    assert torch.allclose(signs.abs(), torch.ones(size))
    torch.testing.assert_close(matrix, torch.diag(signs) @ hadamard(size) / size**0.5)
    if size >= 16:
        assert set(signs.round().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("n", [1, 7, 31, 32, 33, 96, 100, 576])
@pytest.mark.parametrize("size", [16, 32])
def test_any_width_is_rotated_orthogonally(n: int, size: int) -> None:
    matrix = rotate(torch.eye(n), size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n))


@pytest.mark.parametrize("n", [33, 576])
def test_products_are_preserved(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(5, n, generator=generator), torch.randn(9, n, generator=generator)
    torch.testing.assert_close(rotate(x, 32) @ rotate(w, 32).T, x @ w.T, rtol=1e-4, atol=1e-4)


def test_an_outlier_is_spread_over_its_block() -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 50.0
    assert crest_factor(x, 32) > 5.0
    assert crest_factor(rotate(x, 32), 32) < 2.0


def test_is_the_same_every_time() -> None:
    x = torch.randn(2, 40)
    assert torch.equal(rotate(x, 32), rotate(x, 32))


def test_work_is_a_fast_transforms() -> None:
    assert rotation_flop(32, 32) == 32 * (1 + 5)
    assert rotation_flop(64 + 16 + 1, 32) == 64 * (1 + 5) + 16 * (1 + 4) + 1
