"""Outlier-victim pairs against a search over all codes, their scales, and what calibration learns."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.engine.test_engine import prompts
from tests.tiny import tiny_engine

from twofold.claims.ledger import resolve
from twofold.engine.request import SamplingParams
from twofold.techniques.weights.olive import Olive
from twofold.techniques.weights.outlier_victim import FLINT4, INT4, INT8, PairType, find_scales
from twofold.techniques.weights.ovp_matrix import OvpMatrix

TYPES = [INT4, FLINT4, INT8]


def all_codes(kind: PairType) -> torch.Tensor:
    """The bytes of every pair of codes that `encode` may make, [n, bytes]."""
    count = 1 << kind.bits
    pairs = [
        (a, b)
        for a, b in itertools.product(range(count), repeat=2)
        if not (a == kind.victim and b % kind.victim == 0) and not (b == kind.victim and a % kind.victim == 0)
    ]
    both = torch.tensor(pairs, dtype=torch.uint8)
    return both if kind.bits == 8 else both[:, :1] | both[:, 1:] << 4


@pytest.mark.parametrize("kind", [INT4, FLINT4], ids=lambda k: k.name)
def test_rounding_finds_the_nearest_pair(kind: PairType) -> None:
    """Where neither or one of two numbers is an outlier no pair of codes is nearer in the numbers kept."""
    values = kind.decode(all_codes(kind))
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1)) * kind.normal / 2.5
    x[::7, 0] *= 6
    rounded = kind.round(x)
    outliers = (x.abs() > kind.threshold).sum(-1)
    normal = values[(values.abs() <= kind.normal).all(-1)]
    nearest = (normal[None] - x[:, None]).square().sum(-1).amin(-1)
    error = (rounded - x).square().sum(-1)
    torch.testing.assert_close(error[outliers == 0], nearest[outliers == 0])
    one = outliers == 1
    assert one.sum() > 50
    kept = x.abs() > kind.threshold
    reach = values[values.abs() > kind.normal]
    best = (reach[None] - x[one][kept[one]][:, None]).abs().amin(-1)
    torch.testing.assert_close((rounded - x)[one][kept[one]].abs(), best)
    assert (rounded[one][~kept[one]] == 0).all(), "a victim is zero"


@pytest.mark.parametrize("kind", TYPES, ids=lambda k: k.name)
def test_values_are_those_of_the_paper(kind: PairType) -> None:
    sizes = kind.decode(all_codes(kind)).abs().unique()
    outliers = sizes[sizes > kind.normal]
    assert outliers.min() == kind.least
    if kind is INT4:
        assert outliers.tolist() == [12, 16, 24, 32, 48, 64, 96]
        assert sizes[sizes <= 7].tolist() == list(range(8))
    elif kind is FLINT4:
        assert outliers.tolist() == [24, 32, 48, 64, 96, 128, 192]
        assert sizes[sizes <= 16].tolist() == [0, 1, 2, 3, 4, 6, 8, 16]


@pytest.mark.parametrize("kind", TYPES, ids=lambda k: k.name)
def test_codes_give_rounded_values_back(kind: PairType) -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(2)) * kind.normal
    x[:, ::9] *= 30
    values = kind.round(x)
    codes = kind.encode(values)
    assert codes.shape == (64, 256 * kind.bits // 8)
    assert torch.equal(kind.decode(codes), values)
    assert torch.equal(kind.round(values), values)


def test_of_two_outliers_the_larger_stays() -> None:
    x = torch.tensor([[20.0, -40.0], [-40.0, 20.0], [30.0, 30.0]])
    assert INT4.round(x).tolist() == [[0.0, -48.0], [-48.0, 0.0], [32.0, 0.0]]


def test_scales_keep_outliers_that_clipping_loses() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, 128, generator=generator)
    x[:, 5] = 25.0
    scales, errors = find_scales(x, INT4)
    rounded = INT4.round(x / scales[:, None]) * scales[:, None]
    torch.testing.assert_close((rounded - x).square().mean(-1), errors)
    plain = x.abs().amax(-1, keepdim=True) / 7
    uniform = (x / plain).round().clamp(-7, 7) * plain
    assert (errors < 0.2 * (uniform - x).square().mean(-1)).all()
    zeros, _ = find_scales(torch.zeros(2, 8), INT4)
    assert zeros.tolist() == [1.0, 1.0]


def test_calibration_learns_a_scale_for_every_matrix() -> None:
    engine = tiny_engine(techniques=[{"name": "olive", "params": {}}])
    found = [m for stage in engine.runner.model.stages for layer in stage for m in layer.matrices()]
    assert all(isinstance(m, OvpMatrix) and m.activations is not None for m in found)
    engine.generate(prompts(2, seed=1), SamplingParams(max_tokens=4, ignore_eos=True))
    engine.check_techniques()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"wbit": 3}, "wbit must be one of 4, 8"),
        ({"abit": 5}, "abit must be one of 0, 4, 8"),
        ({"mode": "flnt"}, "unknown mode 'flnt'.*flint"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Olive.from_params(params)


def test_setups_of_the_claims_run() -> None:
    for claim in Olive.claims:
        if claim.setup is not None:
            low, high = resolve("olive", claim).ours
            assert 1.0 < low <= high
