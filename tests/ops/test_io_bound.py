"""Counted traffic against programs that compute attention on a machine with a small cache; the bounds'
shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.ops import cache_machine as machine
from tests.ops.cache_machine import CacheMachine, Matrix

from twofold.ops.io_bound import (
    Shape,
    compulsory,
    flash_attention,
    flash_attention_2,
    intensity_bound,
    lower_bound,
    query_block,
    two_products,
)

CASES = [(48, 48, 8, 256), (50, 33, 6, 190), (17, 64, 4, 90)]


def _matrices(rows: int, keys: int, width: int) -> tuple[Matrix, Matrix, Matrix]:
    rng = np.random.default_rng(rows * keys)
    return tuple(rng.standard_normal((n, width)) for n in (rows, keys, keys))  # type: ignore[return-value]


@pytest.mark.parametrize(("rows", "keys", "width", "cache"), CASES)
def test_flash_attention_counts_what_its_program_moves(rows: int, keys: int, width: int, cache: int) -> None:
    q, k, v = _matrices(rows, keys, width)
    columns = -(-cache // (4 * width))
    # Algorithm 1 sizes the inner block by M/4d and d, and counts neither scores nor statistics as cache.
    m = CacheMachine(cache + columns * width + 2 * width)
    out = machine.flash_attention(m, q, k, v, columns, min(columns, width))
    np.testing.assert_allclose(out, machine.attention(q, k, v), rtol=1e-9)
    assert m.moved == flash_attention(Shape(rows, keys, width), cache)


@pytest.mark.parametrize(("rows", "keys", "width", "cache"), CASES)
@pytest.mark.parametrize("columns", [1, 3])
def test_flash_attention_2_counts_what_its_program_moves(
    rows: int, keys: int, width: int, cache: int, columns: int
) -> None:
    q, k, v = _matrices(rows, keys, width)
    m = CacheMachine(cache)
    out = machine.flash_attention_2(m, q, k, v, columns, query_block(width, cache, columns))
    np.testing.assert_allclose(out, machine.attention(q, k, v), rtol=1e-9)
    assert m.moved == flash_attention_2(Shape(rows, keys, width), cache, columns)


@pytest.mark.parametrize(("rows", "keys", "width", "cache"), [(20, 24, 16, 48), (13, 29, 11, 75)])
def test_two_products_count_what_their_program_moves(rows: int, keys: int, width: int, cache: int) -> None:
    q, k, v = _matrices(rows, keys, width)
    m = CacheMachine(cache)
    out = machine.two_products(m, q, k, v, math.isqrt(cache // 3))
    np.testing.assert_allclose(out, machine.attention(q, k, v), rtol=1e-9)
    assert m.moved == two_products(Shape(rows, keys, width), cache)


@pytest.mark.parametrize(
    "shape", [Shape(4096, 4096, 64), Shape(4096, 4096, 128), Shape(512, 8192, 128, True, 4)]
)
def test_no_program_beats_the_bound(shape: Shape) -> None:
    for exponent in range(12, 24):
        cache = 1 << exponent
        bound = lower_bound(shape, cache)
        assert bound >= compulsory(shape)
        for count in (flash_attention, flash_attention_2):
            assert count(shape, cache) >= bound


def test_flash_attention_stays_within_a_constant_of_the_bound() -> None:
    shape = Shape(16384, 16384, 128)
    ratios = [flash_attention_2(shape, m) / lower_bound(shape, m) for m in (1 << e for e in range(14, 24))]
    # Two from keys and values, two from outputs beside the queries, and what is read once in any case.
    assert min(ratios) >= 1
    assert max(ratios) < 5.2


def test_below_d_squared_tiled_products_move_less() -> None:
    shape = Shape(4096, 4096, 256)
    cache = 256 * 256 // 32
    assert two_products(shape, cache) < flash_attention_2(shape, cache) < flash_attention(shape, cache)
    assert two_products(shape, 1 << 18) > flash_attention_2(shape, 1 << 18)


def test_bounds_meet_at_d_squared_and_fall_as_told() -> None:
    shape = Shape(1 << 14, 1 << 14, 128)
    d2 = 128 * 128
    assert lower_bound(shape, d2) == shape.pairs
    assert lower_bound(shape, 4 * d2) == pytest.approx(shape.pairs / 4)
    assert lower_bound(shape, d2 // 4) == pytest.approx(2 * shape.pairs)
    assert lower_bound(shape, 1 << 40) == compulsory(shape)
    assert intensity_bound(128, 4 * d2) == pytest.approx(shape.flop / lower_bound(shape, 4 * d2))
    assert intensity_bound(128, d2 // 4) == pytest.approx(shape.flop / lower_bound(shape, d2 // 4))


def test_causal_attention_sees_a_triangle() -> None:
    shape = Shape(4, 6, 2, causal=True)
    assert shape.pairs == 3 + 4 + 5 + 6
    # One block of queries per row: keys that its query sees, twice.
    assert flash_attention_2(shape, 2 * 2 + 2 * 2 + 3) == 2 * 4 * 2 + 4 + 2 * 2 * shape.pairs


def test_wrong_shapes_say_so() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1"):
        Shape(0, 1, 1)
    with pytest.raises(ValueError, match="needs as many keys"):
        Shape(5, 4, 1, causal=True)
    with pytest.raises(ValueError, match="holds no row beside 1 keys"):
        flash_attention_2(Shape(8, 8, 64), 200)
