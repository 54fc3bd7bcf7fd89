"""Wanda: which weights go."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_engine

from twofold.techniques.registry import make_technique
from twofold.techniques.weights.wanda import Wanda


def test_a_small_weight_on_a_loud_input_stays() -> None:
    weight = torch.tensor([[0.1, 1.0, -2.0, 0.2], [3.0, 0.1, 0.3, -0.2]])
    norms = torch.tensor([50.0, 1.0, 1.0, 2.0])
    kept = Wanda(sparsity=0.5).kept(weight, norms)
    assert kept.tolist() == [[True, False, True, False], [True, False, False, True]]


@pytest.mark.parametrize(("sparsity", "cols", "kept"), [(0.5, 10, 5), (0.6, 10, 4), (0.5, 7, 4)])
def test_rows_keep_equally_many(sparsity: float, cols: int, kept: int) -> None:
    found = Wanda(sparsity=sparsity).kept(torch.randn(6, cols), torch.rand(cols))
    assert found.sum(1).tolist() == [kept] * 6


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4)])
def test_n_of_m_go(n: int, m: int) -> None:
    weight, norms = torch.randn(5, 26), torch.rand(26)
    kept = Wanda(prune_n=n, prune_m=m).kept(weight, norms)
    whole = 26 // m * m
    groups = kept[:, :whole].view(5, -1, m)
    assert bool((groups.sum(-1) == m - n).all())
    assert bool(kept[:, whole:].all())
    scores = (weight.abs() * norms)[:, :whole].view(5, -1, m)
    least_kept = torch.where(groups, scores, float("inf")).amin(-1)
    most_gone = torch.where(groups, 0.0, scores).amax(-1)
    assert bool((least_kept >= most_gone).all())


@pytest.mark.parametrize("params", [{}, {"prune_n": 2, "prune_m": 4}, {"sparsity": 0.25}])
def test_the_engine_multiplies_what_is_kept(params: dict[str, float]) -> None:
    engine = tiny_engine(techniques=[{"name": "wanda", "params": params}])
    share = 1 - params.get("sparsity", 0.5)
    for layer in engine.runner.model.layers:
        for matrix in layer.matrices():
            left = (matrix.widen(torch.float32) != 0).float().mean()
            assert float(left) == pytest.approx(share, abs=0.02)
            assert matrix.allocated == matrix.nbytes < 0.6 * matrix.out_features * matrix.in_features * 4


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must lie between 0 and 1"),
        ({"prune_n": 4, "prune_m": 4}, "prune_n must lie between 0 and prune_m.*use prune_n=2"),
        ({"prune_n": 2}, "prune_n must lie between"),
    ],
)
def test_parameters_are_checked(params: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("wanda", params)
