"""Product time: monotone, bounded by the peaks, in steps of waves; power, packed weights and caches."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.catalog import get_device
from twofold.devices.efficiency.kernels import Kernels
from twofold.devices.efficiency.machine import Machine
from twofold.devices.efficiency.products import ProductEfficiency, ProductTime
from twofold.devices.figures import Figure
from twofold.ops import ExpertMLP, Linear

NAMES = ("a100-80g-sxm", "h100-sxm", "l40s", "mi300x", "tpu-v4", "xeon-8480", "t4")
MODELS = {
    name: ProductTime(get_device(name).efficiency.products, Machine.of(get_device(name))) for name in NAMES
}
PEAK = {name: max(rate.value for rate in get_device(name).matmul.values()) for name in NAMES}
size = st.integers(1, 20_000)


def figure(value: float) -> Figure:
    return Figure(value=value, source="test")


def plain(units: int = 100, **more: object) -> ProductTime:
    """One tile of 128 x 128, 1 TFLOP/s a unit, memory that is never in the way."""
    shares = {name: figure(1.0) for name in ("matrix", "narrow", "memory", "cache")}
    given = {**shares, "overlap": figure(50.0), "launch": figure(0.0), "tiles": [(128, 128)], **more}
    section = ProductEfficiency.model_validate(given)
    return ProductTime(section, Machine(units, 1e15, 1e9, 1e16, 1e15, power=300.0))


def seconds(
    model: ProductTime, rows: int, depth: int, cols: int, peak: float = 1e14, **more: object
) -> float:
    return model.product(rows, depth, cols, 2.0 * depth * cols, peak=peak, **more)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(rows=size, depth=size, cols=size, more=st.integers(1, 2000), axis=st.sampled_from([0, 1, 2]))
def test_more_of_anything_takes_no_less(
    name: str, rows: int, depth: int, cols: int, more: int, axis: int
) -> None:
    smaller = [rows, depth, cols]
    larger = list(smaller)
    larger[axis] += more
    model, peak = MODELS[name], PEAK[name]
    assert seconds(model, *larger, peak=peak) >= seconds(model, *smaller, peak=peak) * (1 - 1e-9)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(rows=size, depth=size, cols=size)
def test_never_faster_than_peak_or_memory(name: str, rows: int, depth: int, cols: int) -> None:
    took = seconds(MODELS[name], rows, depth, cols, peak=PEAK[name])
    assert took >= 2.0 * rows * depth * cols / PEAK[name]
    assert took >= 2.0 * depth * cols / get_device(name).memory.bandwidth.value


def test_one_tile_too_many_starts_another_wave() -> None:
    model = plain()
    full, over = seconds(model, 128, 4096, 128 * 100), seconds(model, 128, 4096, 128 * 100 + 1)
    assert full == pytest.approx(2.0 * 128 * 4096 * 12800 / 1e14, rel=1e-3)
    assert over == pytest.approx(2 * full, rel=1e-3)


def test_idle_units_share_the_depth_of_few_tiles() -> None:
    whole = seconds(plain(split=figure(1e9)), 128, 8192, 128)
    shared = seconds(plain(split=figure(256.0)), 128, 8192, 128)
    assert shared == pytest.approx(whole / 32, rel=0.01)
    merged = seconds(plain(split=figure(256.0), merge=figure(1e-6)), 128, 8192, 128)
    assert merged == pytest.approx(shared + 1e-6, rel=0.01)


def test_every_tile_takes_its_ramp() -> None:
    deep, shallow = (seconds(plain(ramp=figure(1e-6)), 128, depth, 12800) for depth in (4096, 128))
    assert deep - seconds(plain(), 128, 4096, 12800) == pytest.approx(1e-6, rel=0.01)
    assert shallow > 1e-6


def test_the_power_limit_slows_large_products() -> None:
    free, held = plain(), plain(joules=figure(6e-12), throttle=figure(0.5))
    assert held.sustained(1e14, "fp16") == pytest.approx(free.sustained(1e14, "fp16") * (300 / 600) ** 0.5)
    assert seconds(held, 4096, 4096, 12800) > 1.3 * seconds(free, 4096, 4096, 12800)
    # Operands of half the width take half the energy.
    assert held.sustained(1e14, "fp8") == pytest.approx(1e14)


def test_products_in_few_bits_keep_a_share() -> None:
    model = plain(narrow=figure(0.5))
    assert seconds(model, 4096, 4096, 12800, precision="fp8") == pytest.approx(
        2 * seconds(model, 4096, 4096, 12800), rel=0.01
    )


def test_packed_weights_are_widened_by_the_units() -> None:
    model = plain(widen=figure(1e9))
    slow = seconds(model, 1, 4096, 12800, packed=True)
    assert slow == pytest.approx(128 * 4096 / 1e9, rel=0.01)
    assert seconds(model, 1, 4096, 12800) < slow / 3


def test_weights_that_stay_in_the_cache_stream_from_it() -> None:
    model, peak = MODELS["h100-sxm"], PEAK["h100-sxm"]
    cold = seconds(model, 1, 2048, 2048, peak=peak)
    assert seconds(model, 1, 2048, 2048, peak=peak, resident=8e6) < cold
    assert seconds(model, 1, 2048, 2048, peak=peak, resident=1e9) == cold


def test_experts_are_products_side_by_side() -> None:
    model, peak = MODELS["h100-sxm"], PEAK["h100-sxm"]
    few = ExpertMLP(8, 8.0, 2048, 1024, 3, "bf16", 6 * 2048 * 1024, "bf16", 2)
    many = ExpertMLP(4096, 8.0, 2048, 1024, 3, "bf16", 6 * 2048 * 1024, "bf16", 2)
    assert model.seconds(few, "bf16", peak)[1] in ("memory", "overhead")
    took, bound = model.seconds(many, "bf16", peak)
    assert bound == "compute"
    assert took >= many.cost().flop / peak


def test_what_bounds_a_product_is_said() -> None:
    model, peak = MODELS["h100-sxm"], get_device("h100-sxm").matmul["bf16"].value
    bounds = [
        model.seconds(Linear(rows, depth, depth, "bf16", 2 * depth * depth, "bf16", 2), "bf16", peak)[1]
        for rows, depth in ((1, 64), (1, 16384), (8192, 8192))
    ]
    assert bounds == ["overhead", "memory", "compute"]


def test_the_calculation_of_a_device_without_tiles_is_plain() -> None:
    model = plain(tiles=[])
    assert model.feed == inf
    assert seconds(model, 1000, 1000, 1000) == pytest.approx(2e9 / 1e14, rel=0.05)


def test_vector_units_multiply_only_the_rows_that_there_are() -> None:
    model = plain()  # 10 PFLOP/s on the vector units: a lower peak of fp32 is theirs
    one, all_rows = (seconds(model, rows, 4096, 12800, precision="fp32") for rows in (1, 128))
    assert one == pytest.approx(all_rows / 128, rel=0.05)
    padded = seconds(model, 1, 4096, 12800)
    assert padded == pytest.approx(seconds(model, 128, 4096, 12800), rel=0.05)


def test_a_software_has_kernels_of_its_own_for_few_bits() -> None:
    file = get_device("h100-sxm")
    section, machine = file.efficiency.products, Machine.of(file)
    usual, own = ProductTime(section, machine), ProductTime(section, machine, Kernels(narrow=1.2))
    peak = file.matmul["fp8"].value
    shape = (4096, 8192, 8192)
    ratio = seconds(usual, *shape, peak, precision="fp8") / seconds(own, *shape, peak, precision="fp8")
    assert ratio == pytest.approx(1.2, rel=0.05)
    assert seconds(usual, *shape, peak) == seconds(own, *shape, peak)


def test_a_layer_of_experts_takes_its_dispatch_once() -> None:
    op = ExpertMLP(8, 8.0, 2048, 1024, 3, "bf16", 6 * 2048 * 1024, "bf16", 2)
    without = plain().seconds(op, "bf16", 1e14)[0]
    assert plain(dispatch=figure(2e-5)).seconds(op, "bf16", 1e14)[0] == pytest.approx(without + 2e-5)


def test_narrow_weights_are_widened_where_the_product_is_wider() -> None:
    slow = plain(widen=figure(1e9))
    op = Linear(1, 4096, 4096, "fp8", 4096 * 4096, "fp8", 2)
    assert slow.seconds(op, "fp8", 1e14) == plain().seconds(op, "fp8", 1e14)
    assert slow.seconds(op, "bf16", 1e14)[0] > 2 * plain().seconds(op, "bf16", 1e14)[0]
