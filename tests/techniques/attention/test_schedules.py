"""Exact attention schedules: equal results, traffic that is counted before and while loops run, even
shares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.kernels.paged import filled_cache, heads, step_of

from twofold.kernels.cpu import native
from twofold.kernels.cpu.context import CpuContext
from twofold.kernels.reference.attention import attention
from twofold.kernels.reference.schedules import Sram, by_head, keys_outside, queries_outside, two_pass_softmax
from twofold.kernels.registry import CPU, REFERENCE
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.io_bound import Shape, flash_attention, flash_attention_2, lower_bound, query_block
from twofold.ops.schedules import LeanAttention, Segment, deal_tiles, passes_of, visits_of
from twofold.techniques.attention.flashattention import FlashAttention
from twofold.techniques.attention.flashattention_2 import FlashAttention2
from twofold.techniques.attention.lean_attention import Lean
from twofold.techniques.attention.two_pass_softmax import TwoPassSoftmax

SCHEDULES = {
    "flashattention": FlashAttention(sram=4 * 4 * 16 * 48),
    "flashattention-2": FlashAttention2(query_block=24, key_block=40),
    "lean-attention": Lean(tile=16, workers=7),
    "two-pass-softmax": TwoPassSoftmax(),
}
SPANS = [(1, 90), (1, 17), (1, 300), (70, 130), (33, 33)]


def both(technique: Any, step: StepInput, cache: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    torch.manual_seed(2)
    q = torch.randn(step.num_tokens, cache.heads.heads, cache.heads.head_dim)
    plain = cache.ops(step)[1]
    op = technique.op(plain, step)
    return REFERENCE[type(op)](op, q, cache, step), attention(plain, q, cache, step), op


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_results_are_those_of_attention(name: str, softcap: float | None) -> None:
    cache = filled_cache(heads(6, 2, 16, softcap=softcap), "f32", 60)
    found, expected, _ = both(SCHEDULES[name], step_of(SPANS, 60), cache)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", SCHEDULES)
def test_large_scores_overflow_nowhere(name: str) -> None:
    cache = filled_cache(heads(2, 1, 16), "f32", 40)
    cache.tensors["k"] *= 300
    found, expected, _ = both(SCHEDULES[name], step_of([(1, 300), (40, 200)], 40), cache)
    assert torch.isfinite(found).all()
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max()


# --- traffic ---


@pytest.mark.parametrize("span", [Span(64, 64), Span(50, 170), Span(1, 77), Span(129, 129)])
def test_the_loops_move_what_was_counted(span: Span) -> None:
    layer = heads(4, 4, 16)
    step = step_of([span], 30)
    plain = filled_cache(layer, "f32", 30).ops(step)[1]
    q, k, v = (torch.randn(n, 4, 16) for n in (span.queries, span.keys, span.keys))
    for technique, loops in (
        (SCHEDULES["flashattention"], keys_outside),
        (SCHEDULES["flashattention-2"], queries_outside),
    ):
        op, sram = technique.op(plain, step), Sram()
        loops(op, *by_head(q, k, v), layer, sram)
        assert sram.moved == op.io


def test_traffic_is_that_of_the_papers_formulas() -> None:
    layer, span = heads(3, 3, 32), Span(500, 500)
    step = step_of([span], 32)
    plain = filled_cache(layer, "f32", 32).ops(step)[1]
    shape, cache = Shape(500, 500, 32, causal=True), 4096
    first = FlashAttention(sram=4 * cache).op(plain, step)
    assert first.io == 3 * flash_attention(shape, cache)
    rows = query_block(32, cache)
    second = FlashAttention2(query_block=rows, key_block=1).op(plain, step)
    assert second.io == 3 * flash_attention_2(shape, cache)
    assert 3 * lower_bound(shape, cache) < second.io < first.io


def test_visits_and_passes_by_hand() -> None:
    assert (
        visits_of(Span(4, 6), 4) == 4 + 2
    )  # queries 2 to 5; the block from key 4 on is seen by the last two
    assert passes_of(Span(4, 6), 3) == 5 + 6


# --- dealing ---


def test_tiles_are_dealt_evenly_and_all_of_them() -> None:
    tiles = [5, 1, 9, 3, 3]
    shares = deal_tiles(tiles, 4)
    sizes = [sum(s.last - s.first for s in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    dealt = sorted((s.output, t) for share in shares for s in share for t in range(s.first, s.last))
    assert dealt == [(output, t) for output, count in enumerate(tiles) for t in range(count)]
    assert deal_tiles([2], 9) == [[Segment(0, 0, 1)], [Segment(0, 1, 2)]]


def test_lean_shares_are_even_where_heads_would_not_be() -> None:
    """Two sequences of very different length on 8 workers: whole heads leave most of them waiting."""
    step = step_of([(1, 4000), (1, 100)], 300)
    plain = filled_cache(heads(2, 2, 16), "f32", 300).ops(step)[1]
    op = Lean(tile=16, workers=8).op(plain, step)
    assert isinstance(op, LeanAttention)
    assert op.balance > 0.98
    by_head_alone = op.dealt / (8 * 250)  # a worker for each head: the longest has 250 tiles
    assert by_head_alone < 0.27
    assert op.partials == 4 + 5  # the states of the two long heads
    assert op.cost().bytes_moved > plain.cost().bytes_moved


def test_prompts_alone_attend_as_usual() -> None:
    step = step_of([(40, 40)], 10)
    plain = filled_cache(heads(2, 1, 16), "f32", 10).ops(step)[1]
    assert Lean().op(plain, step) is plain


# --- softmax ---


@pytest.mark.parametrize("scale", [1e-3, 1.0, 80.0, 1e4])
def test_two_pass_softmax(scale: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 1000) * scale
    x[0, 3:] = -torch.inf
    assert torch.allclose(two_pass_softmax(x), x.double().softmax(-1).float(), atol=1e-6, rtol=1e-4)


# --- native ---

needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built")
NATIVE = {
    "flashattention": FlashAttention(sram=4 * 4 * 32 * 96),
    "flashattention-2": FlashAttention2(),
    "lean-attention": Lean(workers=5),
    "two-pass-softmax": TwoPassSoftmax(),
}


@needs_native
@pytest.mark.parametrize("isa", [] if native() is None else native().supported_isas())
@pytest.mark.parametrize("fmt", ["f32", "f16", "int4"])
@pytest.mark.parametrize("name", NATIVE)
def test_native_equals_reference(name: str, fmt: str, isa: str) -> None:
    before = native().isa()
    native().use_isa(isa)
    try:
        cache = filled_cache(heads(6, 2, 32, softcap=20.0), fmt, 220)
        step = step_of([(1, 900), (70, 500), (1, 1300), (1, 5), (9, 9)], 220)
        torch.manual_seed(1)
        q = torch.randn(step.num_tokens, 6, 32)
        plain = cache.ops(step)[1]
        op = NATIVE[name].op(plain, step)
        expected = attention(plain, q, cache, step)
        for threads in (1, 2):
            found = CPU[type(op)](CpuContext(native(), threads), op, q, cache, step)
            assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()
    finally:
        native().use_isa(before)


@needs_native
@pytest.mark.parametrize("isa", [] if native() is None else native().supported_isas())
@pytest.mark.parametrize("columns", [1, 7, 16, 1003])
def test_native_softmax(isa: str, columns: int) -> None:
    from twofold.kernels.cpu.softmax import softmax

    before = native().isa()
    native().use_isa(isa)
    try:
        torch.manual_seed(0)
        for scale in (1.0, 30.0, 1e3):
            x = torch.randn(3, columns) * scale
            expected = x.double().softmax(-1)
            for passes in (2, 3):
                assert torch.allclose(softmax(x, passes).double(), expected, atol=1e-6, rtol=2e-4)
    finally:
        native().use_isa(before)
    with pytest.raises(ValueError, match="float32"):
        softmax(torch.zeros(2, 2, dtype=torch.float64), 2)
