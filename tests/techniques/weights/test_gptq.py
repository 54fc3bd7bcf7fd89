"""GPTQ: the solver against a plain reading of the algorithm, and what calibration gains."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_checkpoint, tiny_engine

from twofold.techniques.registry import make_technique
from twofold.techniques.weights.block_formats import block_format
from twofold.techniques.weights.gptq import Gptq
from twofold.techniques.weights.gptq_solver import Hessian, inverse_factor, solve


def problem(rows: int = 24, cols: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight matrix and correlated inputs [tokens, cols]."""
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(cols, cols, generator=generator)
    x = torch.randn(300, cols, generator=generator) @ mix
    return torch.randn(rows, cols, generator=generator), x


def hessian_of(x: torch.Tensor) -> torch.Tensor:
    hessian = Hessian(x.shape[1])
    for part in x.split(100):
        hessian.add(part)
    return hessian.sums


def slowly(weight: torch.Tensor, hessian: torch.Tensor, name: str, percdamp: float) -> torch.Tensor:
    """One column after the other, each error spread at once by the inverse of what remains of H, which is
    inverted anew each time: in float64, no Cholesky factor, no blocks."""
    fmt = block_format(name)
    w = weight.double().clone()
    h = hessian.double() + percdamp * hessian.double().diagonal().mean() * torch.eye(len(hessian))
    out = torch.empty_like(w)
    for i in range(w.shape[1]):
        if i % fmt.block == 0:
            largest = w[:, i : i + fmt.block].abs().amax(1)
            scale = (largest.float() / fmt.element.maximum).bfloat16().double()
        out[:, i] = (w[:, i] / scale).round().clamp(-fmt.element.maximum, fmt.element.maximum) * scale
        inverse = torch.linalg.inv(h[i:, i:])
        w[:, i:] -= torch.outer((w[:, i] - out[:, i]) / inverse[0, 0], inverse[0])
    return out.float()


@pytest.mark.parametrize("name", ["int3-g32", "int4-g32", "int4-g64", "int8-g128"])
def test_equals_the_algorithm_column_by_column(name: str) -> None:
    weight, x = problem()
    hessian, fmt = hessian_of(x), block_format(name)
    got = fmt.decode(solve(weight, hessian, fmt, percdamp=0.01, act_order=False), weight.shape[1])
    wanted = slowly(weight, hessian, name, 0.01)
    # A weight that lies between two codes may fall either way, and takes others with it.
    assert (got - wanted).abs().gt(1e-6).float().mean() < 0.02


def test_factor_is_that_of_the_inverse() -> None:
    _, x = problem()
    hessian = hessian_of(x).double()
    factor = inverse_factor(hessian)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor @ hessian, torch.eye(96, dtype=torch.float64), atol=1e-8)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_outputs_change_less_than_by_rounding_to_nearest(bits: int, act_order: bool) -> None:
    weight, x = problem()
    fmt = block_format(f"int{bits}-g32")
    nearest = fmt.decode(fmt.encode(weight), 96)
    got = fmt.decode(solve(weight, hessian_of(x), fmt, percdamp=0.01, act_order=act_order), 96)

    def error(w: torch.Tensor) -> float:
        return float((x @ (w - weight).T).square().mean())

    assert error(got) < 0.5 * error(nearest)


def test_features_that_never_occur() -> None:
    weight, x = problem()
    x[:, 10:20] = 0
    fmt = block_format("int4-g32")
    got = fmt.decode(solve(weight, hessian_of(x), fmt, percdamp=0.01, act_order=True), 96)
    assert bool(got.isfinite().all())
    assert got[:, 10:20].abs().max() == 0


def test_calibrated_matrices_are_what_the_engine_multiplies() -> None:
    use = {"name": "gptq", "params": {"group_size": 32}}
    engine = tiny_engine(techniques=[use])
    plain = tiny_engine(techniques=[{"name": "int-vs-fp", "params": {"format": "int4-g32"}}])
    ours, theirs = (e.runner.model.layers[1].mlp for e in (engine, plain))
    assert ours is not None
    assert theirs is not None
    a, b = ours.matrices()[0], theirs.matrices()[0]
    assert (a.format, a.nbytes, a.allocated) == (b.format, b.nbytes, b.allocated)
    assert not torch.equal(a.widen(torch.float32), b.widen(torch.float32))


def test_experts_are_calibrated_one_by_one() -> None:
    engine = tiny_engine("mixtral", techniques=[{"name": "gptq", "params": {"group_size": 32}}])
    assert engine.runner.model.allocated() == engine.runner.model.weight_bytes()
    checkpoint = tiny_checkpoint("mixtral")
    mlp = engine.runner.model.layers[0].mlp
    assert len(mlp.gate_up) == checkpoint.spec.experts.num  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 5}, "bits must be one of 3, 4, 8, not 5; use 4"),
        ({"group_size": 100}, "group_size must be one of 32, 64, 128, not 100; use 128"),
        ({"percdamp": 0}, "percdamp must lie above 0"),
    ],
)
def test_parameters_are_checked(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("gptq", params)


def test_calibration_is_asked_for_once() -> None:
    assert Gptq().needs_calibration
