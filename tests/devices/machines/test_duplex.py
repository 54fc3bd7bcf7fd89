"""Duplex and its baseline with units in the banks: which processor takes what, and what both gain at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from twofold.devices.machines.duplex import Duplex, expert_tokens
from twofold.devices.machines.duplex_bank_pim import BankPim
from twofold.ops import Attention, ExpertMLP, Linear
from twofold.ops.attention import Span, total_spans

DUPLEX, BANKS = Duplex(), BankPim()


def attention(spans: list[tuple[int, int]], heads: int = 32, kv_heads: int = 8) -> Attention:
    totals = total_spans(Span(*span) for span in spans)
    return Attention(totals, heads, kv_heads, 128, 128, 4 * kv_heads * 128 * totals.keys, "bf16", 2)


def experts(pairs: int, touched: float = 8.0) -> ExpertMLP:
    return ExpertMLP(pairs, touched, 4096, 14336, 3, "bf16", 6 * 4096 * 14336, "bf16", 2)


def test_the_paper_has_these_peaks() -> None:
    """21.3 TFLOP/s a stack, four times the bandwidth of the pins, eight operations per byte; sixteen times
    and one with units in the banks."""
    logic, pins = DUPLEX.figures.logic, DUPLEX.figures.pins
    assert 2 * logic.macs_per_second / 5 == pytest.approx(21.3e12, rel=0.01)
    assert DUPLEX.view.bus_bandwidth == pytest.approx(4 * pins.bus_bandwidth)
    assert 2 * logic.macs_per_second / DUPLEX.view.bus_bandwidth == pytest.approx(8, rel=0.01)
    assert BANKS.view.bus_bandwidth == pytest.approx(16 * pins.bus_bandwidth)
    assert 2 * BANKS.figures.logic.macs_per_second / BANKS.view.bus_bandwidth == pytest.approx(1, rel=0.01)


def test_single_queries_go_to_the_logic_dies_and_prompts_do_not() -> None:
    """Decoding is several times faster than on the GPU; a prompt takes as long; both together take the
    longer."""
    decode, prompt = attention([(1, 2000)] * 64), attention([(1024, 1024)])
    both = attention([(1, 2000)] * 64 + [(1024, 1024)])
    assert DUPLEX.attention(decode).seconds < DUPLEX.xpu.work(decode).seconds / 2
    assert DUPLEX.attention(prompt) == DUPLEX.xpu.work(prompt)
    longer = max(DUPLEX.attention(decode).seconds, DUPLEX.attention(prompt).seconds)
    assert DUPLEX.attention(both).seconds == pytest.approx(longer)


def test_a_waiting_gpu_burns_power() -> None:
    """Clocks and leakage run on while the logic dies work alone."""
    work = DUPLEX.attention(attention([(1, 2000)] * 64))
    assert work.joules["array"] == pytest.approx(98.0 * work.seconds)  # 14 % of 700 W


def test_many_queries_per_key_want_arithmetic() -> None:
    """Units in the banks win where every key is read for one query, and lose where it is for eight."""
    alone, grouped = attention([(1, 4000)] * 64, 32, 32), attention([(1, 4000)] * 64, 64, 8)
    assert BANKS.attention(alone).seconds < DUPLEX.attention(alone).seconds
    assert BANKS.attention(grouped).seconds > DUPLEX.attention(grouped).seconds


def test_what_the_units_cannot_multiply_is_the_gpus() -> None:
    """A packed cache, packed experts."""
    packed = replace(attention([(1, 2000)] * 8), format="int4", widen_flop=1000)
    assert DUPLEX.attention(packed) == DUPLEX.xpu.work(packed)
    op = replace(experts(16), format="q8_0")
    assert DUPLEX.experts(op) == DUPLEX.xpu.work(op)


@pytest.mark.parametrize("pairs", [8, 64, 256, 1024, 8192])
def test_experts_are_shared_out(pairs: int) -> None:
    """Never slower than the GPU; with few tokens an expert mostly the logic dies' work, with many the GPU's,
    between them both at once."""
    op = experts(pairs)
    ours, gpu = DUPLEX.experts(op), DUPLEX.xpu.work(op)
    tokens = expert_tokens(pairs, 8)
    whole = sum(DUPLEX._expert(op, each).seconds for each in tokens)
    assert ours.seconds <= gpu.seconds
    assert ours.seconds <= whole + DUPLEX.figures.pins.stream(5 * pairs * 4096 * 2).seconds + 1e-12
    if pairs == 8:
        assert ours.seconds < gpu.seconds / 3
    if pairs == 1024:
        assert ours.seconds < 0.95 * min(gpu.seconds, whole)
    if pairs == 8192:
        assert ours.joules.get("logic-die", 0.0) < 0.1 * ours.total_joules


def test_tokens_of_experts_add_up() -> None:
    """Ascending, at least one each, as many as there are choices."""
    for pairs, count in ((3, 8), (64, 8), (200, 64), (9000, 64)):
        tokens = expert_tokens(pairs, count)
        assert sum(tokens) == pytest.approx(pairs)
        assert all(a <= b for a, b in pairwise(tokens))
    assert expert_tokens(64, 8)[-1] > 1.3 * 8


def test_dense_layers_stay_on_the_gpu() -> None:
    """Products of the batch, and messages, which need a link."""
    op = Linear(64, 4096, 4096, "bf16", 2 * 4096 * 4096, "bf16", 2)
    assert DUPLEX.work(op) == DUPLEX.xpu.work(op)
    assert Duplex(tp=4).ranks == 4
    with pytest.raises(ValueError, match="linked at most 8"):
        Duplex(tp=16)


def test_bad_figures_are_refused() -> None:
    """Bundles that banks do not make."""
    figures = DUPLEX.figures
    with pytest.raises(ValueError, match="no bundles of 5"):
        Duplex(replace(figures, logic=replace(figures.logic, bundle=5)))
    with pytest.raises(ValueError, match="must be positive"):
        replace(figures.logic, macs=0)
