"""What holds for every machine, found by its file: nothing beats its hardware, more is never slower, every
figure has a source."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twofold.devices.machine import Machine, numbers, sourced, with_number
from twofold.devices.registry import MACHINES, machine_class, make_device
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops import Activate, AddNorm, Attention, CacheWrite, Embedding, Linear, Op, RotaryQKV, Sample
from twofold.ops.attention import Span, total_spans

every = pytest.mark.parametrize("name", MACHINES)
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROOM = 1 + 1e-9
"""Sums of many floating-point numbers differ in their last digits."""


@cache
def machine(name: str) -> Machine:
    return machine_class(name).make()


def linear(on: Machine, tokens: int, inputs: int, outputs: int) -> Linear:
    p = on.native_precision
    return Linear(tokens, inputs, outputs, p, 2 * inputs * outputs, p, 2)


def attention(on: Machine, spans: list[tuple[int, int]], heads: int, group: int, dim: int) -> Attention:
    kv = heads // group
    totals = total_spans(Span(queries, queries + before) for queries, before in spans)
    read = 2 * 2 * kv * dim * totals.keys
    return Attention(totals, heads, kv, dim, dim, read, on.native_precision, 2)


def check(on: Machine, op: Op) -> None:
    """`op` takes at least its bytes over the peak bandwidth, its FLOP over the peak rate, and the energy of
    both."""
    cost, peaks = op.cost(), on.peaks()
    charge = on.charge(op, cost)
    stored = sum(t.read + t.written for t in cost.traffic if t.role != "activations")
    assert charge.seconds * ROOM >= stored / peaks.bytes_per_second
    assert charge.joules * ROOM >= stored * peaks.joules_per_byte
    if cost.flop:
        assert charge.seconds * ROOM >= cost.flop / peaks.flop_per_second[cost.precision]
        assert charge.joules * ROOM >= cost.flop * peaks.joules_per_flop
    assert charge.joules == pytest.approx(sum(joules for _, joules in charge.parts))
    assert all(joules >= 0 for _, joules in charge.parts)


@every
@few
@given(tokens=st.integers(1, 600), inputs=st.integers(64, 9000), outputs=st.integers(64, 9000))
def test_products_obey_the_hardware(name: str, tokens: int, inputs: int, outputs: int) -> None:
    """Bandwidth, arithmetic and energy bound every product."""
    check(machine(name), linear(machine(name), tokens, inputs, outputs))


@every
@few
@given(
    spans=st.lists(
        st.tuples(st.sampled_from([1, 1, 1, 40, 300]), st.integers(0, 4000)), min_size=1, max_size=8
    ),
    heads=st.sampled_from([(8, 1), (32, 1), (32, 4), (64, 8)]),
    dim=st.sampled_from([64, 128]),
)
def test_attention_obeys_the_hardware(
    name: str, spans: list[tuple[int, int]], heads: tuple[int, int], dim: int
) -> None:
    """Bandwidth, arithmetic and energy bound every attention, decode and prefill alike."""
    check(machine(name), attention(machine(name), spans, heads[0], heads[1], dim))


@every
@few
@given(
    sizes=st.tuples(st.integers(1, 64), st.integers(64, 8000), st.integers(64, 8000)), grows=st.integers(0, 2)
)
def test_larger_products_take_longer(name: str, sizes: tuple[int, int, int], grows: int) -> None:
    """Neither time nor energy falls where one size grows by a third."""
    larger = list(sizes)
    larger[grows] = larger[grows] * 4 // 3 + 1
    one, other = (
        machine(name).charge(op, op.cost())
        for op in (linear(machine(name), *sizes), linear(machine(name), *larger))
    )
    assert other.seconds * ROOM >= one.seconds
    assert other.joules * ROOM >= one.joules


@every
@few
@given(queries=st.sampled_from([1, 64, 500]), before=st.integers(1, 6000), more=st.integers(1, 3000))
def test_longer_contexts_take_longer(name: str, queries: int, before: int, more: int) -> None:
    """Neither time nor energy of attention falls where the context grows."""
    on = machine(name)
    one, other = (
        on.charge(op, op.cost())
        for op in (attention(on, [(queries, n)], 32, 1, 128) for n in (before, before + more))
    )
    assert other.seconds * ROOM >= one.seconds
    assert other.joules * ROOM >= one.joules


def usual_ops(on: Machine) -> list[Op]:
    """Ops of a decode step and of a prompt."""
    ops: list[Op] = []
    for tokens in (1, 16, 512):
        ops += [
            linear(on, tokens, 4096, 6144),
            linear(on, tokens, 768, 2304),
            CacheWrite(tokens, 2 * 1024, 2 * 2 * 1024 * tokens, 2),
            Embedding(tokens, 4096, 8192, 2),
            AddNorm(tokens, 4096, "rms", 2),
            Activate(tokens, 11008, "silu", True, 2),
            RotaryQKV(tokens, 32, 8, 128, 128, False, 2),
            Sample(tokens, 32000),
        ]
    ops += [attention(on, [(1, 2000)] * 16, 32, 4, 128), attention(on, [(512, 0)], 32, 1, 128)]
    return ops


@every
def test_more_of_a_resource_never_hurts(name: str) -> None:
    """Twice of any figure that is said to help: no op is slower, and one at least is faster."""
    before = machine(name)
    assert before.more, "name the figures of which more helps"
    for path in before.more:
        after = machine_class(name).make(with_number(before.figures, path, 2 * numbers(before.figures)[path]))
        ratios = [
            after.charge(op, op.cost()).seconds / before.charge(op, op.cost()).seconds
            for op in usual_ops(before)
            if before.charge(op, op.cost()).seconds > 0
        ]
        assert max(ratios) <= ROOM, path
        assert min(ratios) < 1, path


@every
def test_every_figure_has_a_source(name: str) -> None:
    """Each number of a machine says where it comes from."""
    on = machine(name)
    paths = numbers(on.figures)
    assert set(paths) == set(sourced(paths, on.sources))
    assert all((on.title, on.kind, on.source))


@every
def test_a_step_runs_on_it(name: str) -> None:
    """A decode step of a small decoder: time and energy are the sums of its ops, and of its idle power."""
    on = machine_class(name).make()
    model = build_model(get_spec("gpt2-small"), ModelOptions(precision=on.native_precision))
    on.begin_step()
    model.forward(StepInput([Span(1, 512)], num_tokens=1, num_logits=1), on)
    cost = on.end_step()
    assert cost.joules is not None
    assert 0 < cost.seconds <= sum(t.seconds for t in on.totals.values()) * ROOM + on.step_overhead
    dynamic = sum(t.joules for t in on.totals.values())
    assert cost.joules == pytest.approx(dynamic + on.idle_watts * cost.seconds)
    assert sum(on.joules_by_part.values()) == pytest.approx(dynamic)


@every
def test_linking_is_as_it_says(name: str) -> None:
    """A machine that cannot be linked refuses tp; one that can is charged for its share and its messages."""
    cls = machine_class(name)
    if cls.most == 1:
        with pytest.raises(ValueError, match="single machine"):
            make_device(name, tp=2)
    else:
        assert make_device(name, tp=2).linkable
        with pytest.raises(ValueError, match="at most"):
            make_device(name, tp=2 * cls.most)


def test_numbers_by_path() -> None:
    """Figures are found and replaced by path; whole numbers stay whole."""
    figures = machine("pim-gpt").figures
    assert numbers(figures)["asic.hertz"] == 1e9
    changed = with_number(figures, "asic.adders", 307.2)
    assert changed.asic.adders == 307
    assert figures.asic.adders == 256
    with pytest.raises(ValueError, match="did you mean"):
        with_number(figures, "asci.adders", 1)
