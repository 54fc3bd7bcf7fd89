"""Attention on modelled devices: lower bounds, monotony, what splitting and packing do, known figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twofold.devices.catalog import device_names, get_device
from twofold.devices.efficiency.attention import AttentionTime
from twofold.devices.efficiency.kernels import Kernels
from twofold.devices.efficiency.machine import Machine
from twofold.ops.attention import Attention, Span, total_spans

FILES = {name: get_device(name) for name in device_names()}
TIMERS = {name: AttentionTime(f.efficiency.attention, Machine.of(f)) for name, f in FILES.items()}
TILED = ["a100-80g-sxm", "h100-sxm", "l40s", "b200", "v100-32g-sxm2"]
PEAK = 300e12
SPAN = st.tuples(st.integers(1, 600), st.integers(0, 8000)).map(lambda x: Span(x[0], x[0] + x[1]))


def attention(spans: list[Span], heads: int = 32, kv_heads: int = 8, dim: int = 128) -> Attention:
    """Grouped-query attention over a cache of 16-bit entries."""
    totals = total_spans(spans)
    return Attention(totals, heads, kv_heads, dim, dim, totals.keys * kv_heads * dim * 4, "bf16", 2)


def seconds(name: str, op: Attention, resident: float = 0.0) -> float:
    return TIMERS[name].seconds(op, op.cost(), PEAK, resident)[0]


@pytest.mark.parametrize("name", device_names())
@settings(max_examples=15, deadline=None)
@given(spans=st.lists(SPAN, min_size=1, max_size=8), heads=st.sampled_from([(8, 8), (32, 8), (64, 1)]))
def test_never_faster_than_the_peaks(name: str, spans: list[Span], heads: tuple[int, int]) -> None:
    op = attention(spans, *heads)
    took, bound = TIMERS[name].seconds(op, op.cost(), PEAK)
    assert took >= op.cost().flop / PEAK
    assert took >= op.cache_bytes / FILES[name].memory.bandwidth.value
    assert bound in ("compute", "memory", "overhead")


@pytest.mark.parametrize("name", TILED)
@settings(max_examples=30, deadline=None)
@given(spans=st.lists(SPAN, min_size=1, max_size=8), more=st.integers(1, 3000))
def test_time_grows_with_keys(name: str, spans: list[Span], more: int) -> None:
    longer = [Span(q, k + more) for q, k in spans]
    # Longer keys are split among more units, whose sums then have to be added up.
    assert seconds(name, attention(longer)) >= seconds(name, attention(spans)) * (1 - 1e-9)


@pytest.mark.parametrize("name", TILED)
@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 300), queries=st.sampled_from([1, 100, 1000]), keys=st.integers(1000, 9000))
def test_time_grows_with_sequences(name: str, count: int, queries: int, keys: int) -> None:
    """Twice the sequences take longer, but for the kernel that is no longer needed to add up split keys."""
    tiling = FILES[name].efficiency.attention.tiling
    assert tiling is not None
    once = seconds(name, attention([Span(queries, keys)] * count))
    twice = seconds(name, attention([Span(queries, keys)] * (2 * count)))
    assert twice >= once - tiling.aside.value - 1e-12
    # Queries and outputs of more sequences may no longer fit the last cache.
    assert twice <= 2.1 * once + tiling.aside.value + tiling.item.value


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize(("queries", "keys"), [(1, 4096), (1024, 1024)])
def test_time_grows_with_heads(name: str, queries: int, keys: int) -> None:
    times = [seconds(name, attention([Span(queries, keys)] * 8, 4 * kv, kv)) for kv in (1, 2, 4, 8, 16, 32)]
    assert times == sorted(times)


@pytest.mark.parametrize("name", TILED)
def test_one_long_sequence_is_split(name: str) -> None:
    """65,536 keys of one sequence take not much longer than the same number of keys of 64 sequences."""
    long, short = attention([Span(1, 65536)]), attention([Span(1, 1024)] * 64)
    assert long.cache_bytes == short.cache_bytes
    assert seconds(name, long) <= 1.3 * seconds(name, short)


def test_unsplit_keys_leave_units_idle() -> None:
    """FlashAttention-2 splits keys only where it packs heads: without shared heads, two units do it all."""
    shared = seconds("a100-80g-sxm", attention([Span(1, 65536)], 8, 2))
    apart = seconds("a100-80g-sxm", attention([Span(1, 65536)], 2, 2))
    assert apart > 5 * shared
    hopper = [seconds("h100-sxm", attention([Span(1, 65536)], heads, 2)) for heads in (8, 2)]
    assert hopper[1] == pytest.approx(hopper[0], rel=0.05)


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("count", [1, 8, 64])
def test_decode_and_short_prefill_meet(name: str, count: int) -> None:
    """Two queries a sequence cost little more than one: no jump between two models."""
    one, two = (seconds(name, attention([Span(q, 2048)] * count)) for q in (1, 2))
    assert two == pytest.approx(one, rel=0.5)


@pytest.mark.parametrize("name", TILED)
def test_a_batch_of_both_lies_between_its_parts_and_their_sum(name: str) -> None:
    decode, prefill = [Span(1, 2000)] * 30, [Span(2000, 2000)]
    parts = [seconds(name, attention(spans)) for spans in (decode, prefill)]
    both = seconds(name, attention(decode + prefill))
    assert max(parts) < both < 1.1 * sum(parts)


def test_the_last_cache_serves_only_what_stays_there() -> None:
    op = attention([Span(1, 4096)] * 2)
    small, large = (seconds("l40s", op, resident) for resident in (2.0 * op.cache_bytes, 40e9))
    assert small < large / 2
    assert seconds("l40s", op) == large


def test_tiles_start_in_waves() -> None:
    """One item more than there are units costs a second wave."""
    file = FILES["h100-sxm"]
    tiling, units = file.efficiency.attention.tiling, int(file.units.count.value)
    assert tiling is not None
    full, over = (seconds("h100-sxm", attention([Span(1, 16)] * n, 4, 1)) for n in (units, units + 1))
    assert over - full == pytest.approx(tiling.item.value, rel=0.05)


def test_evenly_spread_work_has_no_tiles() -> None:
    """A processor without a described kernel takes rates and a fixed time only."""
    section = FILES["xeon-8480"].efficiency.attention
    assert section.tiling is None
    op = attention([Span(1, 8192)])
    bare = replace(op, cache_bytes=0, totals=op.totals._replace(pairs=0, queries=0))
    assert seconds("xeon-8480", bare) == pytest.approx(section.launch.value)


# vLLM's operator, which also writes the new entries to the cache, 32 query and 8 key-value heads of 128 in
# bf16: (device, sequences, queries, keys, seconds); tables of aiconfigurator-core.
MEASURED = [
    ("h100-sxm", 64, 1, 8192, 688.2e-6),
    ("h100-sxm", 8, 1, 32768, 367.8e-6),
    ("h100-sxm", 1, 8192, 8192, 912.2e-6),
    ("h100-sxm", 8, 1024, 1024, 222.0e-6),
    ("h200-sxm", 64, 1, 8192, 490.8e-6),
    ("a100-80g-sxm", 64, 1, 4096, 681.6e-6),
    ("a100-80g-sxm", 1, 8192, 8192, 3120e-6),
    ("l40s", 16, 1, 8192, 838e-6),
    ("l40s", 1, 8192, 8192, 2992.8e-6),
    ("b200", 64, 1, 8192, 309.4e-6),
]


@pytest.mark.parametrize(("name", "count", "queries", "keys", "measured"), MEASURED)
def test_known_figures(name: str, count: int, queries: int, keys: int, measured: float) -> None:
    op = attention([Span(queries, keys)] * count)
    took, _ = TIMERS[name].seconds(op, op.cost(), FILES[name].matmul["bf16"].value)
    assert took == pytest.approx(measured, rel=0.2)


def test_a_software_starts_decodes_in_its_own_time() -> None:
    file = FILES["h100-sxm"]
    assert file.efficiency.attention.tiling is not None
    item = file.efficiency.attention.tiling.item.value
    own = AttentionTime(file.efficiency.attention, Machine.of(file), Kernels(decode=0.5))
    decodes, prompts = attention([Span(1, 64)] * 4096), attention([Span(64, 64)] * 64)
    saved = seconds("h100-sxm", decodes) - own.seconds(decodes, decodes.cost(), PEAK)[0]
    waves = -(-4096 * 8 // 132)
    assert saved == pytest.approx(0.5 * item * waves, rel=0.1)
    assert seconds("h100-sxm", prompts) == own.seconds(prompts, prompts.cost(), PEAK)[0]
