"""Conservation on every device of the catalogue: nothing is faster than its bytes or FLOP allow, nor free
of energy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.catalog import device_names, energy_table, get_device
from twofold.devices.curves import Curve
from twofold.devices.modelled import Charge
from twofold.devices.roofline import Roofline
from twofold.ops import (
    Activate,
    AddNorm,
    AllReduce,
    Attention,
    Copy,
    ExpertMLP,
    Linear,
    Norm,
    Sample,
    Send,
    Span,
    expected_touched,
    total_spans,
)
from twofold.ops.base import Op, Precision

DEVICES = {name: Roofline(get_device(name)) for name in device_names()}

size = st.integers(1, 6000)
tokens = st.integers(1, 3000)
precision = st.sampled_from(["fp32", "bf16", "fp16", "fp8", "fp4", "int8", "int4", "int1", "tf32", "fp6"])


@st.composite
def linears(draw: st.DrawFn) -> Linear:
    t, i, o = draw(tokens), draw(size), draw(size)
    return Linear(t, i, o, "bf16", draw(st.integers(1, 3)) * i * o, draw(precision), 2)


@st.composite
def experts(draw: st.DrawFn) -> ExpertMLP:
    t, h, f = draw(tokens), draw(size), draw(size)
    touched = expected_touched(16, 2, t)
    return ExpertMLP(2 * t, touched, h, f, 3, "bf16", 6 * h * f, draw(precision), 2)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    spans = [
        Span(draw(st.integers(1, 64)), draw(st.integers(64, 4000))) for _ in range(draw(st.integers(1, 4)))
    ]
    totals = total_spans(spans)
    return Attention(totals, 8, 2, 64, 64, totals.keys * 512, draw(precision), 2)


elementwise = st.one_of(
    st.builds(Norm, tokens, size, st.just("rms"), st.just(2)),
    st.builds(AddNorm, tokens, size, st.just("layer"), st.just(2)),
    st.builds(Activate, tokens, size, st.just("silu"), st.just(True), st.just(2)),
    st.builds(Sample, st.integers(1, 64), size),
)
ops = st.one_of(linears(), experts(), attentions(), elementwise)


def charge(device: Roofline, op: Op) -> Charge:
    return device.charge(op, op.cost())


def peaks(device: Roofline, used: Precision) -> tuple[float, float, float]:
    """Matrix FLOP/s, vector FLOP/s, bytes/s of the fastest memory that the device has."""
    file = device.file
    rate = max([file.vector.value, *(r.value for r in file.matmul.values())])
    return rate, file.vector.value, file.memory.bandwidth.value


@pytest.mark.parametrize("name", device_names())
@settings(max_examples=30, deadline=None)
@given(op=ops)
def test_nothing_is_faster_than_the_peaks(name: str, op: Op) -> None:
    device, cost = DEVICES[name], op.cost()
    got = charge(device, op)
    flop_rate, vector_rate, bandwidth = peaks(device, cost.precision)
    assert got.seconds >= cost.flop / flop_rate + cost.vector_flop / vector_rate
    streamed = sum(t.read + t.written for t in cost.traffic if t.role != "activations")
    assert got.seconds >= streamed / bandwidth
    cache = device.file.cache
    fastest = max(bandwidth, cache.bandwidth.value if cache and cache.bandwidth else 0.0)
    assert got.seconds >= cost.bytes_moved / fastest
    assert got.bound in ("compute", "memory", "overhead")


@pytest.mark.parametrize("name", device_names())
@settings(max_examples=20, deadline=None)
@given(op=ops)
def test_energy_covers_its_parts(name: str, op: Op) -> None:
    device, cost = DEVICES[name], op.cost()
    power = device.file.power
    span = power.limit.value - power.idle.value
    flop_rate, vector_rate, _ = peaks(device, cost.precision)
    streamed = sum(t.read + t.written for t in cost.traffic if t.role != "activations")
    near = cost.bytes_moved - streamed
    memory = energy_table().memory[device.file.memory.technology].value
    least = cost.flop * span / flop_rate + cost.vector_flop * span / vector_rate
    least += streamed * memory + near * min(memory, energy_table().cache.value)
    assert charge(device, op).joules >= least * (1 - 1e-9)


@pytest.mark.parametrize("name", device_names())
@settings(max_examples=30, deadline=None)
@given(
    op=linears(), more=st.integers(1, 500), field=st.sampled_from(["tokens", "in_features", "out_features"])
)
def test_time_grows_with_size(name: str, op: Linear, more: int, field: str) -> None:
    device = DEVICES[name]
    larger = replace(op, **{field: getattr(op, field) + more})
    width = op.weight_bytes // (op.in_features * op.out_features)
    larger = replace(larger, weight_bytes=width * larger.in_features * larger.out_features)
    assert charge(device, larger).seconds >= charge(device, op).seconds * (1 - 1e-12)
    assert charge(device, larger).joules >= charge(device, op).joules * (1 - 1e-12)


@pytest.mark.parametrize("path", ["memory.bandwidth", "vector", "matmul"])
@settings(max_examples=40, deadline=None)
@given(op=ops, factor=st.floats(1.01, 8.0))
def test_time_falls_with_every_resource(path: str, op: Op, factor: float) -> None:
    file = get_device("rtx-4090")

    def faster(figure: object) -> object:
        return figure.model_copy(update={"value": figure.value * factor})  # type: ignore[attr-defined]

    if path == "memory.bandwidth":
        memory = file.memory.model_copy(update={"bandwidth": faster(file.memory.bandwidth)})
        better = file.model_copy(update={"memory": memory})
    elif path == "vector":
        better = file.model_copy(update={"vector": faster(file.vector)})
    else:
        better = file.model_copy(update={"matmul": {p: faster(r) for p, r in file.matmul.items()}})
    assert charge(Roofline(better), op).seconds <= charge(DEVICES["rtx-4090"], op).seconds * (1 + 1e-12)


def test_decode_is_bound_by_memory_and_prefill_by_compute() -> None:
    device = DEVICES["h100-sxm"]
    few = Linear(1, 8192, 8192, "bf16", 2 * 8192 * 8192, "bf16", 2)
    assert charge(device, few).bound == "memory"
    assert charge(device, replace(few, tokens=4096)).bound == "compute"


def test_resident_bytes_move_weights_into_the_cache() -> None:
    device = Roofline(get_device("h100-sxm"))
    op = Linear(1, 2048, 2048, "bf16", 2 * 2048 * 2048, "bf16", 2)
    device.begin_step()
    device.execute(op)
    streamed = device.end_step().seconds
    device.resident_bytes = 20_000_000
    device.begin_step()
    device.execute(op)
    assert device.end_step().seconds < streamed
    assert device.totals["linear"].calls == 2


def test_precisions_fall_back_to_wider_ones() -> None:
    t4, h100, tpu = DEVICES["t4"], DEVICES["h100-sxm"], DEVICES["tpu-v4"]
    assert t4._rates["bf16"][2] == "fp16"
    assert h100._rates["fp4"][2] == "fp8"
    assert h100._rates["int4"][2] == "int8"
    assert tpu._rates["fp32"][0] == tpu.file.vector.value
    with pytest.raises(ValueError, match="cannot multiply in fp64"):
        charge(tpu, Linear(1, 8, 8, "f32", 256, "fp64", 8))


def test_copies_and_offloaded_weights_cross_the_host_link() -> None:
    device = DEVICES["h100-sxm"]
    assert device.file.host is not None
    link = device.file.host.bandwidth.value
    assert charge(device, Copy(10**9, "device", "host")).seconds >= 1e9 / link
    assert charge(device, Copy(10**9, "disk", "device")).seconds > 1e9 / link
    far = Linear(1, 4096, 4096, "bf16", 2 * 4096 * 4096, "bf16", 2, space="host")
    assert charge(device, far).seconds >= far.weight_bytes / link
    with pytest.raises(ValueError, match="no memory 'host'"):
        charge(DEVICES["snapdragon-8-gen-3"], Copy(1, "device", "host"))


def test_a_lone_device_refuses_collectives() -> None:
    with pytest.raises(ValueError, match="stands alone"):
        charge(DEVICES["h100-sxm"], AllReduce(1024, 2, "tp"))


def test_repeated_layers_and_stages_are_charged_in_full() -> None:
    class Layer:
        signature = "same"

    device = Roofline(get_device("a100-80g-sxm"))
    op = Norm(4, 4096, "rms", 2)
    device.begin_step()
    for _ in device.each([Layer()] * 10):
        device.execute(op)
    once = charge(device, op)
    assert device.end_step().seconds == pytest.approx(10 * once.seconds)
    assert device.totals["norm"].calls == 10
    assert device.totals["norm"].bytes_moved == 10 * op.cost().bytes_moved
    assert sum(device.bounds.values()) == pytest.approx(10 * once.seconds)
    device.reset_totals()
    assert device.totals == {}


def test_stages_add_up_to_the_step() -> None:
    from twofold.devices.cluster import Cluster

    device = Cluster(get_device("h100-sxm"), pp=2).rank()
    device.begin_step()
    device.execute(Norm(4, 4096, "rms", 2))
    device.execute(Send(8192, 2, "pp"))
    device.execute(Norm(4, 4096, "rms", 2))
    step = device.end_step()
    assert len(step.stages) == 2
    assert sum(step.stages) == pytest.approx(step.seconds)


def test_a_step_pays_idle_power() -> None:
    device = Roofline(get_device("h100-sxm"))
    op = Norm(1, 128, "rms", 2)
    device.begin_step()
    device.execute(op)
    step = device.end_step()
    assert step.joules == pytest.approx(charge(device, op).joules + 64.4 * step.seconds)


@given(st.lists(st.floats(1.0, 1e12), min_size=2, max_size=8))
def test_curves_are_physical(values: list[float]) -> None:
    points = [(float(2**i), value) for i, value in enumerate(values)]
    xs = [2 ** (i / 3) for i in range(3 * len(values))]
    bandwidth, rate = Curve.bandwidth(points), Curve.rate(points)
    assert all(bandwidth(a) >= bandwidth(b) * (1 - 1e-9) for a, b in pairwise(xs))
    assert all(a / rate(a) <= b / rate(b) * (1 + 1e-9) for a, b in pairwise(xs))
