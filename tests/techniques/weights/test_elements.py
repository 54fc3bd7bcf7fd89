"""Element types against an enumeration of their fields and against torch's own float8."""

from __future__ import annotations

import pytest
import torch
from tests.techniques.weights.reference import floats, integers

from twofold.techniques.weights.elements import E2M1, E2M3, E4M3, INT4, INT6, INT8, Element
from twofold.techniques.weights.packing import pack, unpack

ELEMENTS = [INT8, INT6, INT4, E4M3, E2M3, E2M1]
by_name = pytest.mark.parametrize("element", ELEMENTS, ids=lambda e: e.name)


def positive(element: Element) -> list[float]:
    """All values that are not negative, from the definition."""
    if element.integer:
        return [float(v) for v in integers(element.bits)]
    return [float(v) for v in floats(element.exponent_bits, element.mantissa_bits, drop=int(element.nan))]


@by_name
def test_table_is_the_enumeration(element: Element) -> None:
    values = positive(element)
    table = element.table()
    assert table.shape == (2**element.bits,)
    assert table[: len(values)].tolist() == values
    assert element.maximum == values[-1]
    if element.integer:
        assert table[len(values) :].tolist() == [float(v) for v in range(-len(values), 0)]
    else:
        half = len(table) // 2
        assert table[half : half + len(values)].tolist() == [-v for v in values]
        assert bool(table[len(values) : half].isnan().all())


def test_published_extremes() -> None:
    assert (E4M3.maximum, E4M3.table()[1].item()) == (448.0, 2.0**-9)
    assert (E2M3.maximum, E2M3.table()[1].item()) == (7.5, 0.125)
    assert (E2M1.maximum, E2M1.table()[1].item()) == (6.0, 0.5)
    assert (INT8.maximum, INT6.maximum, INT4.maximum) == (127.0, 31.0, 7.0)


def test_e4m3_is_torchs_float8() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(
        codes.view(torch.float8_e4m3fn).float().nan_to_num(nan=-1.0), E4M3.table().nan_to_num(nan=-1.0)
    )
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.equal(E4M3.round(x), x.clamp(-448, 448).to(torch.float8_e4m3fn).float())


@by_name
def test_rounding_is_to_nearest_with_ties_to_even(element: Element) -> None:
    values = torch.tensor(positive(element))
    middles = (values[1:] + values[:-1]) / 2
    even = torch.where(torch.arange(len(middles)) % 2 == 0, values[:-1], values[1:])
    below, above = middles.nextafter(torch.tensor(0.0)), middles.nextafter(torch.tensor(1e9))
    for sign in (1.0, -1.0):
        assert torch.equal(element.round(sign * values), sign * values)
        assert torch.equal(element.round(sign * middles), sign * even)
        assert torch.equal(element.round(sign * below), sign * values[:-1])
        assert torch.equal(element.round(sign * above), sign * values[1:])
    beyond = torch.tensor([element.maximum * 1.5, 1e30, float("inf")])
    assert element.round(beyond).tolist() == [element.maximum] * 3
    assert bool(element.round(torch.tensor([float("nan")])).isnan().all())
    tiny = torch.tensor([1e-45, 1e-38, -1e-40])
    assert bool((element.round(tiny) == 0).all())


@by_name
def test_codes_survive_packing(element: Element) -> None:
    values = torch.tensor(positive(element))
    values = torch.cat((values, -values))
    values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(1))]
    values = values.repeat(4)[: len(values) * 4 // 32 * 32].view(2, -1)
    codes = element.encode(values)
    packed = pack(codes, element.bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, values.shape[1] * element.bits // 8)
    assert torch.equal(element.table()[codes.long()], values)
    assert torch.equal(unpack(packed, element), values)
