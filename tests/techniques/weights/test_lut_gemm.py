"""Binary codes against plain searches, and the tables' counted work."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.tiny import tiny_engine

from twofold.claims.ledger import resolve
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.ops.linear import LookUpLinear
from twofold.techniques.weights.binary_codes import (
    binary_codes,
    plain_binary_codes,
    signs_of_codes,
)
from twofold.techniques.weights.lut_gemm import LutGemm, signed_sums


def error(groups: torch.Tensor, bits: int, rounds: int) -> torch.Tensor:
    found = binary_codes(groups, bits, rounds)
    signs = signs_of_codes(bits)[found.codes.long()]  # [n, g, q]
    return ((signs * found.alpha[:, None]).sum(-1) + found.z[:, None] - groups).square().sum(-1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_turns_never_make_codes_worse(bits: int) -> None:
    groups = torch.randn(200, 64, generator=torch.Generator().manual_seed(bits)) + 0.3
    errors = torch.stack([error(groups, bits, rounds) for rounds in (0, 1, 2, 5, 15)])
    assert (errors.diff(dim=0) <= 1e-3).all()
    assert errors[-1].mean() < 0.9 * errors[0].mean()
    low, high = groups.aminmax(dim=-1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    uniform = (((groups - low) / step).round() * step + low - groups).square().sum(-1)
    torch.testing.assert_close(errors[0], uniform, rtol=1e-3, atol=1e-3)


def test_one_bit_is_the_best_cut_of_the_sorted_weights() -> None:
    """With one plane a group is cut in two, each part at its mean: every cut is tried."""
    groups = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    ordered = groups.sort(-1).values
    cuts = []
    for at in range(1, 12):
        parts = ordered[:, :at], ordered[:, at:]
        cuts.append(sum((p - p.mean(-1, keepdim=True)).square().sum(-1) for p in parts))
    best = torch.stack([c for c in cuts if isinstance(c, torch.Tensor)]).amin(0)
    found = error(groups, 1, 15)
    assert (found >= best - 1e-5).all()
    assert (found <= 1.25 * best).float().mean() > 0.9


def test_codes_that_exist_are_found() -> None:
    """Groups that are sums of signed factors already come back as they were, but for few that end at another
    fixed point of the turns."""
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(0, 8, (40, 128), generator=generator)
    alpha, z = torch.tensor([0.2, 0.5, 1.1]), 0.25
    groups = signs_of_codes(3)[codes] @ alpha + z
    assert (error(groups, 3, 15) < 1e-6).float().mean() > 0.9


@pytest.mark.skipif(native() is None, reason="the native kernels are not built")
@pytest.mark.parametrize("bits", [1, 3, 4])
def test_native_codes_are_those_of_the_reference(bits: int) -> None:
    groups = torch.randn(100, 64, generator=torch.Generator().manual_seed(5))
    for rounds in (0, 1, 4):
        ours, plain = (f(groups, bits, rounds) for f in (binary_codes, plain_binary_codes))
        torch.testing.assert_close(ours.alpha, plain.alpha, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(ours.z, plain.z, rtol=2e-3, atol=2e-3)
        assert (ours.codes == plain.codes).float().mean() > 0.995


def test_codes_are_the_nearest_for_their_factors() -> None:
    groups = torch.randn(20, 32, generator=torch.Generator().manual_seed(3))
    found = binary_codes(groups, 2, 3)
    values = found.alpha @ signs_of_codes(2).T + found.z[:, None]  # [n, 4]
    nearest = (groups[..., None] - values[:, None]).abs().amin(-1)
    chosen = (groups - values.gather(1, found.codes.long())).abs()
    torch.testing.assert_close(chosen, nearest)


def test_equal_weights_and_zeros_have_codes() -> None:
    for value in (0.0, 0.7):
        assert error(torch.full((2, 32), value), 3, 15).max() < 1e-6


def test_a_table_holds_all_signed_sums() -> None:
    x = torch.randn(2, 6)
    table = signed_sums(x, 4)
    assert table.shape == (2, 2, 16)
    padded = torch.nn.functional.pad(x, (0, 2))
    for entry, part in itertools.product(range(16), range(2)):
        signs = torch.tensor([1.0 if entry >> j & 1 else -1.0 for j in range(4)])
        expected = (padded[:, 4 * part : 4 * part + 4] * signs).sum(-1)
        torch.testing.assert_close(table[:, part, entry], expected)


def test_counted_work_is_that_of_the_paper() -> None:
    matrix = LutGemm(q=3, g=128, mu=8).weight_scheme().pack(None, 256, 512)
    op = matrix.op(2, "fp16")
    assert isinstance(op, LookUpLinear)
    cost = op.cost()
    assert cost.flop == 0
    assert cost.vector_flop == 2 * (64 * 256 + 3 * 256 * 64 + 2 * 4 * 256 * 4)
    assert cost.bytes_read == 256 * (3 * 64 + 4 * 4 * 2) + 2 * 512 * 2
    assert matrix.op(9, "fp16").cost().flop == 2.0 * 9 * 256 * 512


def test_decoding_looks_up_and_prompts_are_widened() -> None:
    engine = tiny_engine(techniques=[{"name": "lut-gemm", "params": {"q": 4, "g": 32}}])
    engine.generate([list(range(3, 40))], SamplingParams(max_tokens=4, ignore_eos=True))
    counters = engine.actives[0].counters
    assert 0 < counters["table_products"] < counters["products"]
    engine.check_techniques()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"q": 0}, "q must be 1 to 8"),
        ({"mu": 9}, "mu must be 1 to 8"),
        ({"g": 20}, "g must be a multiple of 8"),
        ({"rounds": -1}, "rounds must be 0"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LutGemm.from_params(params)


def test_weights_must_be_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        LutGemm().weight_scheme().pack(torch.full((16, 32), float("nan")), 16, 32)


def test_the_setup_of_the_claim_runs() -> None:
    (claim,) = (c for c in LutGemm.claims if c.setup is not None)
    assert resolve("lut-gemm", claim).ours[0] > 1.0
