"""Formulas of systolic arrays against small products played cycle by cycle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.parts.systolic import Dataflow, Product, Run, SystolicArray
from twofold.devices.parts.systolic_events import Played, play

ARRAY = SystolicArray(4, 4, hertz=1e9, joules=1e-12)
DATAFLOWS: tuple[Dataflow, ...] = ("ws", "is", "os")
PRODUCTS = st.builds(Product, *(st.integers(1, 14) for _ in range(3)), st.integers(1, 3))
ARRAYS = st.builds(
    SystolicArray,
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    hertz=st.just(1e9),
    joules=st.just(1e-12),
    dataflow=st.sampled_from(DATAFLOWS),
    double_buffered=st.booleans(),
)


def played(array: SystolicArray, product: Product) -> Played:
    """The product of random matrices; its result is checked."""
    random = np.random.default_rng(0)
    a = random.integers(-9, 10, (product.times, product.m, product.k))
    b = random.integers(-9, 10, (product.times, product.k, product.n))
    found = play(array, a, b)
    assert (found.result == a @ b).all()
    return found


@settings(max_examples=150, deadline=None)
@given(array=ARRAYS, product=PRODUCTS)
def test_formulas_equal_the_array(array: SystolicArray, product: Product) -> None:
    """Cycles and accesses of every dataflow, exactly, with tails, and the result is the product."""
    found, run = played(array, product), array.run(product)
    assert run.cycles == found.cycles
    assert (run.read_a, run.read_b) == (found.read_a, found.read_b)
    assert (run.sums_written, run.sums_read) == (found.sums_written, found.sums_read)
    assert run.utilisation == pytest.approx(
        product.macs / (found.cycles * array.rows * array.columns), rel=1e-12
    )


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_published_cycles(dataflow: Dataflow) -> None:
    """SCALE-Sim's 2 rows + columns + past - 2 cycles for every tile, one tile after the other."""
    array = SystolicArray(32, 16, 1e9, 0.0, dataflow, double_buffered=False)
    past = {"ws": 100, "is": 300, "os": 200}[dataflow]
    down, across = {"ws": (200, 300), "is": (200, 100), "os": (100, 300)}[dataflow]
    tiles = -(-down // 32) * -(-across // 16)
    assert array.run(Product(100, 200, 300)).cycles == tiles * (2 * 32 + 16 + past - 2)


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_double_buffering_hides_loads(dataflow: Dataflow) -> None:
    """It never slows a product down, and fills the array where what passes is long."""
    array = replace(ARRAY, dataflow=dataflow)
    single = replace(array, double_buffered=False)
    for product in (Product(1, 64, 64), Product(4, 4, 4), Product(64, 64, 64)):
        assert array.run(product).cycles <= single.run(product).cycles
    assert array.run(Product(400, 400, 400)).utilisation > 0.99
    assert single.run(Product(400, 400, 400)).utilisation < 0.99


def test_one_row_leaves_the_array_idle() -> None:
    """A product with a vector cannot pass faster than weights are loaded: a row of the array in a cycle."""
    assert ARRAY.run(Product(1, 400, 400)).utilisation == pytest.approx(1 / 4, rel=0.01)
    assert ARRAY.run(Product(4, 400, 400)).utilisation == pytest.approx(1, rel=0.01)


@given(array=ARRAYS, product=PRODUCTS, arrays=st.integers(1, 5))
def test_more_arrays_and_less_work_take_no_longer(
    array: SystolicArray, product: Product, arrays: int
) -> None:
    """The busiest array sets the time; no sharing beats the arithmetic's rate; larger products take
    longer."""
    several = replace(array, arrays=arrays)
    assert several.seconds(product) <= array.seconds(product)
    assert several.seconds(product) >= product.macs / several.macs_per_second
    for larger in (product._replace(m=product.m + 3), product._replace(k=20), product._replace(n=20)):
        assert several.seconds(larger) >= several.seconds(product)
    work = several.work(product)
    assert work.bound == "array"
    assert work.total_joules == pytest.approx(product.macs * 1e-12)


def test_nothing_takes_nothing() -> None:
    """A product without rows, and figures that no array can have."""
    assert ARRAY.run(Product(0, 8, 8)) == Run(0, 0.0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="rows, columns, arrays and hertz must be positive"):
        SystolicArray(0, 4, 1e9, 0.0)
    with pytest.raises(ValueError, match="joules not negative"):
        SystolicArray(4, 4, 1e9, -1.0)
