"""SpAtten and its baselines as devices: what pruning, upper bits and the top-k engine change, what is
skipped, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

from twofold.devices.machines.a3 import A3
from twofold.devices.machines.mnnfast import MnnFast
from twofold.devices.machines.spatten import EIGHTH, Spatten, SpattenFigures, channels
from twofold.devices.parts.topk import TopK
from twofold.ops import Activate, Attention, CacheWrite, Linear, Op, SparseLinear
from twofold.ops.attention import Span, total_spans
from twofold.ops.pruned_attention import PrunedAttention, RankedAttention, ScoreUpper, ScoreWhole, WeighValues

HEADS, DIM = 16, 64
Part = TypeVar("Part", bound=PrunedAttention)


def dense(keys: int, queries: int = 1) -> Attention:
    spans = total_spans([Span(queries, keys)])
    return Attention(spans, HEADS, HEADS, DIM, DIM, 2 * 2 * HEADS * DIM * keys, "fp16", 2)


def part(kind: type[Part], keys: int, computed: int, nbytes: int, alive: int = HEADS) -> Part:
    """One query; `computed` scores of each of the heads that are left."""
    spans = total_spans([Span(1, keys)])
    scores = computed * alive
    return kind(
        spans,
        HEADS,
        HEADS,
        DIM,
        DIM,
        nbytes,
        "fp16",
        2,
        format="spatten",
        scores=scores,
        width=DIM,
        alive=alive,
    )


def seconds(machine: Spatten, op: Op) -> float:
    return machine.work(op).seconds


def generated(machine: Spatten, keys: int, values: int) -> float:
    """The parts of a token's attention: upper halves of `keys`, `values` of them whole."""
    upper = part(ScoreUpper, keys, keys, HEADS * keys * DIM // 2)
    weighed = part(WeighValues, keys, values, HEADS * values * DIM)
    return seconds(machine, upper) + seconds(machine, weighed)


def test_scores_take_eight_keys_a_cycle() -> None:
    """512 multipliers and keys of 64 elements; the reads of 4 bits are quicker than that."""
    machine = Spatten()
    upper = part(ScoreUpper, 1024, 1024, HEADS * 1024 * DIM // 2)
    assert seconds(machine, upper) == pytest.approx((HEADS * 1024 / 8 + 102) * 1e-9)
    work = machine.attention(upper)
    assert set(work.joules) == {"array", "vector", "sram", "dram"}


def test_reads_bound_a_dense_cache() -> None:
    """16-bit keys and values take longer to read than to multiply; HBM gives no more than its pins."""
    op = dense(1024)
    work = Spatten().attention(op)
    assert work.bound == "dram"
    assert work.seconds >= op.cache_bytes / 512e9


def test_pruning_is_worth_what_it_leaves() -> None:
    """Half of the tokens, or half of the heads, take half of the time and less energy."""
    machine = Spatten()
    assert generated(machine, 512, 153) < 0.55 * generated(machine, 1024, 307)
    whole = part(ScoreUpper, 1024, 1024, HEADS * 1024 * DIM // 2)
    half = part(ScoreUpper, 1024, 1024, HEADS * 1024 * DIM // 4, alive=HEADS // 2)
    assert machine.attention(half).total_joules < 0.6 * machine.attention(whole).total_joules


def test_lower_bits_cost_time_only_where_they_are_needed() -> None:
    """Scoring again one of sixteen rows is a sixteenth of the work."""
    machine = Spatten()
    again = part(ScoreWhole, 1024, 64, HEADS * 64 * DIM // 2)
    assert again.scores == 1024
    assert seconds(machine, again) == pytest.approx((1024 / 8 + 102) * 1e-9)


def test_a_slow_top_k_engine_holds_values_up() -> None:
    """With one comparator a cycle ranking takes longer than reading; with sixteen it takes a sixth of
    that."""
    op = part(WeighValues, 1024, 307, HEADS * 307 * DIM)
    slow = Spatten(replace(SpattenFigures(), topk=TopK(1, 1e9, 0.0)))
    assert slow.attention(op).bound == "top-k"
    expected = HEADS * slow.figures.topk.cycles(1024, 307)
    assert seconds(slow, op) == pytest.approx((expected + 102) * 1e-9)
    assert seconds(Spatten(), op) < seconds(slow, op) / 6


def test_keys_beyond_the_sram_are_read_for_every_query() -> None:
    """Of a prompt; one query reads them once in any case."""
    machine = Spatten()
    fits, beyond = dense(2048, 16), dense(2049, 16)
    assert machine.attention(beyond).joules["dram"] > 15 * machine.attention(fits).joules["dram"]
    assert seconds(machine, dense(2049)) == pytest.approx(seconds(machine, dense(2048)), rel=0.01)


def test_a_prompt_is_ranked_at_no_cost_of_time() -> None:
    """Adding up importance hides behind the products."""
    op = dense(256, 256)
    ranked = RankedAttention(*(getattr(op, name) for name in Attention.__slots__ if hasattr(op, name)))
    assert seconds(Spatten(), ranked) == seconds(Spatten(), op)


def test_a_prompt_shares_weights() -> None:
    """Weights are read once; many tokens are bound by both arrays."""
    machine = Spatten()
    one, many = (Linear(n, 1024, 4096, "int8", 1024 * 4096, "int8", 1) for n in (1, 512))
    assert machine.linear(one).bound == "dram"
    assert machine.linear(many).seconds == pytest.approx(512 * 1024 * 4096 / 1024 * 1e-9)


# --- the baselines ---


def test_a3_skips_work_of_prompts_but_no_reads() -> None:
    """Half of the keys are scored where they can be sorted for many queries; every byte is read."""
    whole = Spatten(EIGHTH)
    prompt, token = dense(256, 256), dense(256)
    assert seconds(A3(), prompt) == pytest.approx(seconds(whole, prompt) / 2, rel=0.01)
    assert seconds(A3(), token) == seconds(whole, token)
    assert A3().attention(prompt).joules["dram"] == pytest.approx(
        whole.attention(prompt).joules["dram"], rel=0.01
    )
    all_of_them = A3(replace(A3.usual, share=1.0))
    assert seconds(all_of_them, prompt) == pytest.approx(seconds(whole, prompt))


def test_mnnfast_skips_values_only() -> None:
    """Their products' energy; scores still take every key."""
    prompt = dense(256, 256)
    few, every = MnnFast(), MnnFast(replace(MnnFast.usual, share=1.0))
    assert seconds(few, prompt) == seconds(every, prompt)
    assert few.attention(prompt).joules["array"] == pytest.approx(
        0.65 * every.attention(prompt).joules["array"], rel=0.01
    )


@pytest.mark.parametrize("machine", [A3(), MnnFast()])
def test_baselines_prune_no_tokens(machine: Spatten) -> None:
    """Nor do they read upper bits alone."""
    with pytest.raises(ValueError, match="by itself"):
        machine.work(part(ScoreUpper, 64, 64, 1024))


# --- refusals ---


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (SparseLinear(1, 64, 64, "f16", 4096, "fp16", 2, kept=2048), "dense weights"),
        (Linear(1, 64, 64, "mxfp4", 2048, "fp16", 2), "mxfp4"),
        (Linear(1, 64, 64, "f32", 16384, "fp32", 4), "plan with precision bf16"),
        (Linear(1, 64, 64, "f16", 8192, "fp16", 2, space="host"), "host"),
        (replace(dense(64), format="fp8"), "fp8"),
        (CacheWrite(1, 64, 128, 2, space="host"), "host"),
    ],
)
def test_refusals(op: Op, reason: str) -> None:
    """Each says what is wrong, or what to do instead."""
    with pytest.raises(ValueError, match=reason):
        Spatten().work(op)


def test_figures_are_checked() -> None:
    """Nothing is zero; an eighth of the machine has an eighth of both."""
    with pytest.raises(ValueError, match="multipliers"):
        SpattenFigures(multipliers=0)
    assert EIGHTH.softmax_lanes == 1
    assert EIGHTH.hbm.bus_bandwidth == pytest.approx(64e9)
    assert channels(32).bus_bandwidth == pytest.approx(512e9)


def test_a_prompt_that_fits_no_sram_streams_the_weights_again() -> None:
    """392 KB of SRAM hold few tokens: HBM is read for each piece of them, and energy says so."""
    machine = Spatten()
    few, many = (Linear(tokens, 4096, 4096, "f16", 2 * 4096**2, "fp16", 2) for tokens in (16, 512))
    once, again = (machine.linear(op).joules["dram"] for op in (few, many))
    pieces = 512 * 4096 * 1.5 / machine.figures.sram_bytes
    assert once == pytest.approx(machine.figures.hbm.stream(few.weight_bytes).joules["dram"], rel=0.01)
    assert again > 0.9 * pieces * once


def test_activations_are_not_free() -> None:
    """An elementwise op takes the SRAM's energy, and HBM's where the SRAM does not hold what it touches."""
    machine = Spatten()
    one, many = (machine.elementwise(Activate(tokens, 4096, "silu", True, 2)) for tokens in (1, 512))
    assert one.joules["sram"] > 0
    assert "dram" not in one.joules
    assert many.joules["dram"] > 0
