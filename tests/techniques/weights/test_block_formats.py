"""Block formats against the slow quantiser, on ordinary and on worst-case values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.techniques.weights.reference import DEFINITIONS, quantise

from twofold.ops.formats import get_format
from twofold.techniques.weights.block_formats import BLOCK_FORMATS, block_format

ALL = list(BLOCK_FORMATS)
MX = [name for name in ALL if name.startswith("mx")]


def random(rows: int, cols: int, seed: int = 0, tails: float = 0.0) -> torch.Tensor:
    """Gaussian values, with log-normal magnitudes of width `tails`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator)
    return x * torch.exp(tails * torch.randn(rows, cols, generator=generator))


def round_trip(name: str, x: torch.Tensor) -> torch.Tensor:
    """Packed and widened again."""
    fmt = block_format(name)
    return fmt.decode(fmt.encode(x), x.shape[1])


def test_every_format_has_a_reference() -> None:
    assert set(ALL) == set(DEFINITIONS)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tails", [0.0, 1.5])
def test_equals_the_definition(name: str, tails: float) -> None:
    x = random(3, 256, seed=7, tails=tails)
    assert torch.equal(round_trip(name, x), quantise(x, name))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("cols", [1, 15, 33, 100, 129])
def test_tails_are_padded_and_cut(name: str, cols: int) -> None:
    x = random(4, cols, seed=cols)
    assert torch.equal(round_trip(name, x), quantise(x, name))


WORST = {
    "zeros": torch.zeros(2, 128),
    "one block of zeros": torch.cat((torch.zeros(1, 128), random(1, 128))),
    "negative zeros": torch.full((1, 128), -0.0),
    "a single outlier": torch.zeros(1, 128).index_fill_(1, torch.tensor([5]), -1e4) + 1e-3,
    "all at the maximum": torch.full((1, 128), 448.0),
    "powers of two": 2.0 ** torch.arange(-64, 64).float().view(1, 128),
    "huge range": random(2, 128) * 10.0 ** torch.linspace(-30, 30, 128),
    "close to the limit": torch.full((1, 128), 1.7e38),
    "ties": (torch.arange(128).float() / 2).view(1, 128),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", WORST)
def test_worst_cases_equal_the_definition(name: str, case: str) -> None:
    kept = round_trip(name, WORST[case])
    assert bool(kept.isfinite().all())
    assert torch.equal(kept, quantise(WORST[case], name))


@pytest.mark.parametrize("name", MX)
def test_subnormal_values_equal_the_definition(name: str) -> None:
    x = random(1, 64) * 1e-41
    assert torch.equal(round_trip(name, x), quantise(x, name))


@pytest.mark.parametrize("name", [n for n in ALL if n not in MX])
def test_subnormal_values_stay_small(name: str) -> None:
    x = random(1, 64) * 1e-41
    kept = round_trip(name, x)
    assert bool((kept.abs() <= 2 * x.abs().max()).all())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2.0**127])
def test_what_has_no_value_is_refused(name: str, bad: float) -> None:
    x = torch.ones(1, 64)
    x[0, 3] = bad
    with pytest.raises(ValueError, match=rf"{name}: weights must be finite and below 2\^127"):
        block_format(name).encode(x)


@pytest.mark.parametrize("name", ALL)
def test_rounding_twice_changes_nothing(name: str) -> None:
    once = round_trip(name, random(8, 256, tails=0.7))
    twice = round_trip(name, once)
    if name.startswith("nv"):  # the second-level scale is a quotient, exact to its last bit only
        torch.testing.assert_close(twice, once, rtol=1e-6, atol=0.0)
    else:
        assert torch.equal(twice, once)


@pytest.mark.parametrize("name", ALL)
@given(
    rows=st.integers(1, 5),
    cols=st.integers(1, 200),
    seed=st.integers(0, 99),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
)
@settings(max_examples=15, deadline=None)
def test_bytes_and_values_on_random_shapes(name: str, rows: int, cols: int, seed: int, size: float) -> None:
    x = random(rows, cols, seed, tails=0.5) * size
    fmt = block_format(name)
    tensors = fmt.encode(x)
    assert sum(t.numel() * t.element_size() for t in tensors.values()) == get_format(name).nbytes(rows, cols)
    kept = fmt.decode(tensors, cols)
    assert kept.shape == x.shape
    assert torch.equal(kept, fmt.round(x))
    # Half a step at the largest value, the scale's own rounding included, bounds every error.
    bound = x.abs().max() * {8: 2**-4, 6: 2**-4, 4: 2**-2, 3: 2**-2}[fmt.element.bits]
    assert bool(((kept - x).abs() <= bound).all())


@pytest.mark.parametrize("name", ALL)
def test_large_matrices_are_packed_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(37, 160)
    whole = block_format(name).encode(x)
    monkeypatch.setattr("twofold.techniques.weights.block_formats._CHUNK", 1000)
    pieces = block_format(name).encode(x)
    assert all(torch.equal(whole[key], pieces[key]) for key in whole)


def test_nothing_is_clipped_by_a_power_of_two_scale() -> None:
    # 127 is the largest code: 127 needs a scale of 1, anything above it a scale of 2.
    for largest, scale in ((127.0, 127), (127.00001, 128), (63.5, 126), (254.0, 128), (3.0, 122)):
        assert block_format("mxint8").encode(torch.full((1, 32), largest))["scales"].item() == scale


def test_rows_can_have_their_own_second_level() -> None:
    x = torch.cat((random(1, 64), 1e-6 * random(1, 64, seed=1)))
    together = block_format("nvfp4").round(x, per_row=True)
    for i in (0, 1):
        assert torch.equal(together[i : i + 1], block_format("nvfp4").round(x[i : i + 1]))
    assert not torch.equal(together, block_format("nvfp4").round(x))


@pytest.mark.parametrize("name", ALL)
def test_rounding_passes_on_what_is_not_finite(name: str) -> None:
    for bad in (float("nan"), float("inf")):
        x = torch.ones(1, 256)
        x[0, 0] = bad
        assert bool(block_format(name).round(x, per_row=True)[0, 0].isnan())


def test_shape_and_dtype_are_kept() -> None:
    x = random(6, 50).bfloat16().view(2, 3, 50)
    kept = block_format("mxint8").round(x)
    assert (kept.shape, kept.dtype) == (x.shape, x.dtype)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown block format 'mxint9'; did you mean 'mxint"):
        block_format("mxint9")
