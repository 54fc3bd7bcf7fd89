"""Tile-wise sparsity: what tiles keep."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_engine

from twofold.techniques.registry import make_technique
from twofold.techniques.weights.tvw_sparsity import TvwSparsity, tile_counts


def pruned(weight: torch.Tensor, **params: object) -> torch.Tensor:
    """What a technique leaves of `weight`, dense."""
    scheme = TvwSparsity(**params).weight_scheme()  # type: ignore[arg-type]
    return scheme.pack(weight, *weight.shape).widen(torch.float32)  # type: ignore[arg-type]


def test_tiles_drop_whole_inputs_and_differ() -> None:
    weight = torch.randn(64, 96)
    weight[:16, :40] *= 10  # of the first tile, many inputs matter
    left = pruned(weight, sparsity=0.5, granularity=16, vector=False) != 0
    tiles = left.view(4, 16, 96)
    assert bool((tiles.all(1) == tiles.any(1)).all()), "an input is kept by all rows of a tile or by none"
    counts = tiles.any(1).sum(1).tolist()
    assert len(set(counts)) > 1
    assert sum(counts) == 4 * 48
    assert bool(tiles[0, 0, :40].all())


def test_two_of_four_kept_inputs_stay_in_each_row() -> None:
    weight = torch.randn(32, 64)
    left = pruned(weight, sparsity=0.75, granularity=16, vector=True) != 0
    assert float(left.float().mean()) == 0.25
    for tile in left.view(2, 16, 64):
        columns = tile.any(0).nonzero()[:, 0]
        # An input of a tile that no row keeps does not show; then fours cannot be told apart.
        if len(columns) % 8 == 0:
            fours = tile[:, columns].view(16, -1, 4)
            assert bool((fours.sum(-1) == 2).all())


def test_outputs_are_dropped_whole() -> None:
    weight = torch.randn(40, 64)
    weight[5] *= 1e-3
    left = pruned(weight, sparsity=0.5, granularity=16, vector=False, outputs=0.2) != 0
    assert int((~left.any(1)).sum()) == 8
    assert not bool(left[5].any())
    assert float(left.float().mean()) == pytest.approx(0.5, abs=0.02)


def test_counts_are_those_of_the_best_in_bytes_of_a_mask() -> None:
    scores = torch.zeros(3, 32)
    scores[0, :20], scores[1, :9], scores[2, :3] = 3.0, 2.0, 1.0
    assert tile_counts(scores, 32) == [24, 8, 0], "20, 9 and 3 are wanted; the first loses most by 16"
    assert tile_counts(torch.rand(5, 60), 5 * 56) == [56] * 5


@pytest.mark.parametrize("params", [{}, {"granularity": 8, "vector": False}, {"outputs": 0.1}])
def test_bytes_and_work_are_what_the_pattern_says(params: dict[str, object]) -> None:
    engine = tiny_engine(techniques=[{"name": "tvw-sparsity", "params": params}])
    technique = make_technique("tvw-sparsity", params)
    assert isinstance(technique, TvwSparsity)
    for layer in engine.runner.model.layers:
        for matrix in layer.matrices():
            pattern = technique.pattern(matrix.out_features, matrix.in_features)
            assert matrix.pattern == pattern  # type: ignore[attr-defined]
            assert matrix.allocated == matrix.nbytes == pattern.nbytes
            share = pattern.kept / (matrix.out_features * matrix.in_features)
            assert share == pytest.approx(1 - technique.sparsity, abs=0.05)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sparsity": 0}, "sparsity must lie between 0 and 1"),
        ({"sparsity": 0.4}, "remove more than sparsity=0.4; use at least sparsity=0.5, or vector=false"),
        ({"granularity": 0}, "granularity must be at least 1"),
        ({"outputs": 1}, "outputs must be at least 0 and below 1"),
    ],
)
def test_parameters_are_checked(params: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("tvw-sparsity", params)
