"""PIM-GPT as a device: what its ops take, what it refuses, and that nothing beats its hardware."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.machines.pim_gpt import PimGpt, PimGptFigures
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops import (
    Activate,
    Add,
    AllReduce,
    Attention,
    CacheWrite,
    Copy,
    Embedding,
    ExpertMLP,
    Linear,
    Norm,
    RotaryQKV,
    Sample,
    Send,
)
from twofold.ops.attention import Span, total_spans
from twofold.ops.base import Op


def linear(outputs: int, inputs: int, tokens: int = 1, fmt: str = "bf16", space: str = "device") -> Linear:
    return Linear(tokens, inputs, outputs, fmt, 2 * inputs * outputs, "bf16", 2, space)


def attention(
    keys: int, heads: int = 12, dim: int = 64, kv_heads: int | None = None, queries: int = 1
) -> Attention:
    kv = kv_heads or heads
    return Attention(total_spans([Span(queries, keys)]), heads, kv, dim, dim, 4 * kv * dim * keys, "bf16", 2)


def cache_write(width: int, tokens: int = 1) -> CacheWrite:
    return CacheWrite(tokens, width, 2 * width * tokens, 2)


def seconds(device: PimGpt, op: Op) -> float:
    return device.charge(op, op.cost()).seconds


def with_shape(**changes: int) -> PimGpt:
    figures = PimGptFigures()
    return PimGpt(replace(figures, shape=replace(figures.shape, **changes)))


# --- conservation ---


@settings(max_examples=60, deadline=None)
@given(outputs=st.integers(1, 9000), inputs=st.integers(1, 9000), tokens=st.integers(1, 4))
def test_products_obey_the_banks(outputs: int, inputs: int, tokens: int) -> None:
    """Every token reads all weights again: neither bandwidth nor multipliers are beaten, and energy covers
    its parts."""
    device = PimGpt()
    op = linear(outputs, inputs, tokens)
    charge = device.charge(op, op.cost())
    assert charge.seconds >= tokens * op.weight_bytes / device.dram.bank_bandwidth
    assert charge.seconds >= op.cost().flop / 2 / device.macs_per_second
    columns = tokens * op.weight_bytes / (device.dram.shape.banks * device.dram.shape.column_bytes)
    assert charge.joules >= columns * device.dram.energy.mac
    assert charge.bound == "memory"


@settings(max_examples=60, deadline=None)
@given(
    keys=st.integers(1, 2048),
    heads=st.sampled_from([(12, 12), (16, 4), (25, 25), (8, 1)]),
    dim=st.sampled_from([64, 96, 128]),
)
def test_attention_obeys_the_banks(keys: int, heads: tuple[int, int], dim: int) -> None:
    """The cache is read once per query, and pairs are multiplied at no more than the multipliers' rate."""
    device = PimGpt()
    op = attention(keys, heads[0], dim, heads[1])
    charge = device.charge(op, op.cost())
    assert charge.seconds >= op.cache_bytes / device.dram.bank_bandwidth
    assert charge.seconds >= op.cost().flop / 2 / device.macs_per_second
    assert charge.joules > 0


def test_batches_gain_nothing() -> None:
    """No weight is reused: n tokens take n times one."""
    device = PimGpt()
    assert seconds(device, linear(2304, 768, 7)) == pytest.approx(7 * seconds(device, linear(2304, 768)))
    assert seconds(device, cache_write(1536, 5)) == pytest.approx(5 * seconds(device, cache_write(1536)))


# --- monotonic ---


def test_more_work_takes_longer() -> None:
    """Time grows with every size that an op has."""
    device = PimGpt()
    assert seconds(device, linear(4608, 768)) > seconds(device, linear(2304, 768))
    assert seconds(device, linear(2304, 1536)) > seconds(device, linear(2304, 768))
    assert seconds(device, attention(1024)) > seconds(device, attention(256))
    assert seconds(device, attention(64, queries=64)) > seconds(device, attention(64))
    assert seconds(device, cache_write(4096)) > seconds(device, cache_write(1536))
    assert seconds(device, Norm(1, 4096, "layer", 2)) > seconds(device, Norm(1, 768, "layer", 2))
    assert seconds(device, Embedding(2, 768, 1536, 2)) > seconds(device, Embedding(1, 768, 1536, 2))
    assert seconds(device, Sample(1, 50257)) > seconds(device, Sample(1, 32000))


@pytest.mark.parametrize("field", ["channels", "banks"])
def test_more_banks_are_faster(field: str) -> None:
    """Twice the channels or banks: nearly half the time of a large product, never slower in any op."""
    before, after = PimGpt(), with_shape(**{field: 2 * getattr(PimGptFigures().shape, field)})
    ratio = seconds(before, linear(8192, 2048)) / seconds(after, linear(8192, 2048))
    assert 1.7 < ratio <= 2.0
    for op in (linear(2304, 768), attention(1000), attention(700, 16, 128, 4)):
        assert seconds(after, op) <= seconds(before, op)
    assert after.memory["device"] == 2 * before.memory["device"]


def test_asic_width_and_dram_timing_matter() -> None:
    """A wider ASIC shortens its ops only; a slower activate shortens nothing."""
    figures = PimGptFigures()
    wide = PimGpt(replace(figures, asic=replace(figures.asic, adders=512, multipliers=256)))
    slow = PimGpt(replace(figures, timing=replace(figures.timing, rcd_mac=2 * figures.timing.rcd_mac)))
    gelu = Activate(1, 3072, "gelu_tanh", False, 2)
    assert seconds(wide, gelu) < seconds(PimGpt(), gelu)
    assert seconds(slow, linear(2304, 768)) > seconds(PimGpt(), linear(2304, 768))
    assert seconds(slow, gelu) == seconds(PimGpt(), gelu)


# --- a step ---


def test_step_of_gpt2() -> None:
    """A decode step of GPT-2: within what its weights allow, most of it in products, energy the sum of its
    parts."""
    device = PimGpt()
    model = build_model(get_spec("gpt2-small"), ModelOptions(precision="bf16"))
    device.begin_step()
    model.forward(StepInput([Span(1, 512)], num_tokens=1, num_logits=1), device)
    cost = device.end_step()
    assert cost.joules is not None
    assert cost.seconds == pytest.approx(sum(t.seconds for t in device.totals.values()))
    dynamic = sum(t.joules for t in device.totals.values())
    assert cost.joules == pytest.approx(dynamic + device.idle_watts * cost.seconds)
    stored = sum(m.nbytes for m in model.layers[0].matrices()) * 12 + model.head.nbytes
    assert stored / device.dram.bank_bandwidth < cost.seconds < 4 * stored / device.dram.bank_bandwidth
    assert device.totals["linear"].seconds > 0.5 * cost.seconds
    assert set(device.totals) >= {"linear", "attention", "cache-write", "norm", "activation", "embedding"}


@pytest.mark.parametrize("factor", [0.5, 2])
def test_assumed_asic_width_matters_little(factor: float) -> None:
    """The ASIC's unit counts are assumed; half or twice as many move a token by less than 10 %."""
    figures = PimGptFigures()
    asic = replace(figures.asic, adders=int(256 * factor), multipliers=int(128 * factor))
    model = build_model(get_spec("gpt2-small"), ModelOptions(precision="bf16"))
    took = []
    for device in (PimGpt(), PimGpt(replace(figures, asic=asic))):
        device.begin_step()
        model.forward(StepInput([Span(1, 512)], num_tokens=1, num_logits=1), device)
        took.append(device.end_step().seconds)
    assert took[1] != took[0]
    assert took[1] == pytest.approx(took[0], rel=0.1)


def test_every_gpt_up_to_a_billion_and_a_half_fits() -> None:
    """The source's eight models and their caches fit into 4 GiB of banks."""
    device = PimGpt()
    assert device.memory == {"device": 4 * 2**30}
    for name in ("gpt2-xl", "gpt3-xl"):
        spec = get_spec(name)
        cache = 1024 * spec.num_layers * spec.kv_elements_per_token * 2
        assert 2 * spec.num_parameters() + cache < device.memory["device"]


# --- refusals ---


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (linear(64, 64, fmt="q4_0"), "cannot widen q4_0 weights in the banks; store the weights as bf16"),
        (linear(64, 64, space="host"), "not in host memory"),
        (replace(attention(10), widen_flop=5), "keep a dense cache in device memory"),
        (replace(cache_write(128), pack_flop=5), "keep a dense cache"),
        (replace(cache_write(128), cache_bytes=64), "keep a dense cache"),
        (Norm(1, 64, "rms", 4), "activations of 2 bytes, not 4"),
        (Activate(1, 64, "swish9", False, 2), "no arithmetic is known for activation 'swish9'"),
        (AllReduce(64, 2, "tp"), "cannot execute AllReduce: it stands alone"),
        (Send(64, 2, "pp"), "cannot execute Send"),
        (Copy(64, "host", "device"), "cannot execute Copy"),
        (ExpertMLP(1, 1.0, 64, 64, 3, "bf16", 64, "bf16", 2), "cannot execute ExpertMLP"),
    ],
)
def test_refusals(op: Op, reason: str) -> None:
    """What the machine cannot do is refused with the reason and what to do instead."""
    with pytest.raises(ValueError, match=reason):
        PimGpt().execute(op)


def test_impossible_figures() -> None:
    """Impossible machines are refused."""
    with pytest.raises(ValueError, match="multiple of a column"):
        PimGptFigures(buffer_bytes=100)
    with pytest.raises(ValueError, match="asic_watts must not be negative"):
        PimGptFigures(asic_watts=-1.0)


def test_small_ops() -> None:
    """Ops of other families: rotation and QK norms run on the ASIC; a plain split is free; sums and gates are
    counted."""
    device = PimGpt()
    assert seconds(device, RotaryQKV(1, 12, 12, 64, 0, False, 2)) == 0.0
    rotated = seconds(device, RotaryQKV(1, 12, 12, 64, 64, False, 2))
    assert 0.0 < rotated < seconds(device, RotaryQKV(1, 12, 12, 64, 64, True, 2))
    plain, gated = Activate(1, 3072, "silu", False, 2), Activate(1, 3072, "silu", True, 2)
    assert seconds(device, plain) < seconds(device, gated)
    assert seconds(device, Add(1, 768, 2)) == pytest.approx((3 + 2) / 1e9)
