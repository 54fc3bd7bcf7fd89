"""Attention with retrieval: where entries lie, what a step attends to, what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.test_engine import prompts
from tests.techniques.cache.harness import (
    BLOCK,
    DIM,
    KV_HEADS,
    MAX_SEQS,
    Part,
    entries,
    make_dense,
    make_heads,
    make_step,
)
from tests.test_invariants import TimedModel
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.kernels.reference.attention import attend_sequence
from twofold.models.cache import CacheSize
from twofold.models.catalog import get_spec
from twofold.models.dense_cache import DenseCache
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.attention.retrieval_cache import RetrievalCache
from twofold.techniques.attention.retrieval_layout import Layout
from twofold.techniques.attention.retrievalattention import RetrievalAttention

SMALL = {
    "initial": 4,
    "recent": 16,
    "top_k": 8,
    "search_list": 16,
    "degree": 4,
    "query_neighbours": 8,
    "build_list": 16,
    "training_queries": 16,
}


def make_layout(**changes: int) -> Layout:
    return RetrievalAttention(**{**SMALL, **changes}).cache_scheme().layout


def make_cache(drafts: int = 0, **changes: int) -> RetrievalCache:
    cache = RetrievalCache(make_heads(), BLOCK, make_layout(**changes))
    cache.max_drafts = drafts
    cache.allocate(CacheSize(40, BLOCK, MAX_SEQS), torch.device("cpu"))
    return cache


def store(cache: RetrievalCache, k: torch.Tensor, v: torch.Tensor, start: int, end: int, row: int = 0) -> Any:
    step = make_step([Part(row, range(30), start, end)])
    cache._offload(step, k[start:end], v[start:end])
    cache.write(step, k[start:end], v[start:end])
    return step


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 6), st.integers(1, 20))
def test_every_entry_is_found_in_order(cuts: list[int], initial: int, recent: int) -> None:
    cache = make_cache(initial=initial, recent=recent)
    k, v = entries(sum(cuts))
    start = 0
    for cut in cuts:
        step = store(cache, k, v, start, start + cut)
        start += cut
        got = cache.read(step, 0)
        assert torch.equal(got[0], k[:start])
        assert torch.equal(got[1], v[:start])


def test_voided_drafts_leave_everything_as_it_was() -> None:
    cache = make_cache(drafts=3)
    k, v = entries(60)
    wrong_k, wrong_v = entries(60, seed=9)
    store(cache, k, v, 0, 40)
    for end in range(41, 55):
        drafts_k, drafts_v = torch.cat((k[:end], wrong_k[end:])), torch.cat((v[:end], wrong_v[end:]))
        store(cache, drafts_k, drafts_v, end - 1, end + 3)
        got = cache.read(make_step([Part(0, range(30), end - 1, end)]), 0)
        assert torch.equal(got[0], k[:end])
        assert torch.equal(got[1], v[:end])


@pytest.mark.parametrize("queries", [1, 5])
def test_what_is_found_and_the_window_make_one_softmax(queries: int) -> None:
    cache = make_cache()
    k, v = entries(50)
    store(cache, k, v, 0, 50)
    hosted = cache.layout.hosted(50)
    q = torch.randn(queries, 4, DIM, generator=torch.Generator().manual_seed(1))
    everything = torch.arange(hosted, dtype=torch.int32).expand(KV_HEADS, 2 * queries, hosted)
    exact = attend_sequence(q, k, v, cache.heads)
    assert torch.allclose(cache._attend_found(q, 0, 50, everything), exact, atol=1e-6)
    # Of the host's entries three alone: as if the others were not there.
    some = torch.tensor([5, 11, 2, -1], dtype=torch.int32).expand(KV_HEADS, 2 * queries, 4)
    there = [*range(4), 4 + 2, 4 + 5, 4 + 11, *range(4 + hosted, 50)]
    expected = attend_sequence(q, k[there], v[there], cache.heads)
    assert torch.allclose(cache._attend_found(q, 0, 50, some), expected, atol=1e-6)


def test_short_steps_search_and_long_ones_teach() -> None:
    layout = make_layout()
    assert layout.hosted(20) == 0
    assert layout.hosted(50) == 30
    assert not layout.searches(Span(1, 28))  # eight keys on the host: all would be found
    assert layout.searches(Span(1, 30))
    assert not layout.searches(Span(17, 50))  # the first of them would not see what the last pushes out
    assert layout.teaches(Span(40, 40)) == 16
    assert layout.teaches(Span(1, 30)) == 0
    assert layout.unlinked(Span(40, 40)) == 20
    assert layout.unlinked(Span(1, 50)) == 1


def test_a_search_is_expected_to_look_at_what_those_before_it_did() -> None:
    lay = make_layout()
    span = Span(1, 400)
    hosted = lay.hosted(400)
    assert lay.scanned(span) == lay.top_k
    lay.expected_share = 0.5
    assert lay.scanned(span) == round(0.5 * hosted)
    lay.counters["keys_searched"], lay.keys_scanned = 1000, 250
    assert lay.scanned(span) == round(0.25 * hosted)


def test_bytes_by_memory() -> None:
    cache = make_cache()
    entry = KV_HEADS * 2 * DIM * 4
    assert cache.block_bytes() == 0
    assert cache.sequence_bytes() == 20 * entry
    assert cache.allocated == MAX_SEQS * cache.sequence_bytes()
    used = sum(t[0, :, :30].nbytes for t in cache.host.values())
    assert cache.host_bytes(50) == used


def test_windowed_layers_keep_a_plain_cache() -> None:
    scheme = RetrievalAttention(**SMALL).cache_scheme()
    assert isinstance(scheme.cache_layer(make_heads(window=32), BLOCK, 0), DenseCache)
    assert isinstance(scheme.cache_layer(make_heads(), BLOCK, 0), RetrievalCache)


def test_it_answers_as_full_attention_where_searches_find_nearly_all() -> None:
    ids = [(7 * i * i + 3 * i) % 150 + 3 for i in range(150)]
    wide = {**SMALL, "recent": 32, "top_k": 30, "search_list": 200, "build_list": 200, "degree": 16}
    narrow = {**SMALL, "recent": 32, "top_k": 1}
    uses = [[], *([{"name": "retrievalattention", "params": p}] for p in (wide, narrow))]
    score = [tiny_engine(techniques=use).score(ids, 100) for use in uses]
    full, many, few = (s.softmax(-1) for s in score)
    near, far = ((full * (full.log() - other.log())).sum(-1).mean() for other in (many, few))
    assert 0 < near < far
    assert near < 0.05


def test_searches_are_counted_alike_where_nothing_is_computed() -> None:
    techniques = [{"name": "retrievalattention", "params": SMALL}]
    real = tiny_engine(techniques=techniques)
    modelled = build_engine(
        tiny_plan(techniques=techniques, precision="fp32"), TimedModel(), tiny_checkpoint().spec
    )
    asked = [p * 2 for p in prompts(4, seed=3)]
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    real.play([(0.0, p, params) for p in asked])
    modelled.play([(0.0, len(p), params) for p in asked])
    (active,), (predicted,) = real.actives, modelled.actives
    layers = len(real.runner.caches)
    for name in ("entries_offloaded", "searches", "keys_searched", "keys_retrieved"):
        assert active.counters[name] == layers * predicted.counters[name] > 0
    share = active.measured()["keys_read"]
    assert 0 < share <= 1
    assert not predicted.measured()["keys_read"]


def test_the_host_s_memory_is_read_over_its_link() -> None:
    plan = Plan.from_dict(
        {
            "model": "llama-3.1-8b",
            "precision": "fp16",
            "techniques": ["retrievalattention"],
            "workload": {"requests": 1, "prompt": 16000, "output": 20},
            "engine": {"max_num_batched_tokens": 16384},
        }
    )
    seconds = []
    for share in (0.02, 0.3):
        engine = build_engine(
            plan.model_copy(update={"behaviour": {"keys_read": share}}),
            make_device("rtx-4090"),
            get_spec("llama-3.1-8b"),
        )
        engine.play([(0.0, 16000, SamplingParams(max_tokens=20, ignore_eos=True))])
        search = engine.device.totals["graph-search"]
        keys = 16000 - 640 + 10
        expected = 19 * 32 * 32 * share * keys * (128 * 2 + 4)
        assert search.bytes_moved == pytest.approx(expected, rel=0.05)
        assert search.seconds > expected / 31.5e9
        seconds.append(search.seconds)
    assert seconds[1] > 5 * seconds[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"search_list": 3}, "at least top_k \\(8\\)"),
        ({"initial": -1}, "initial must be at least 0"),
        ({"query_neighbours": 1}, "at least 2"),
    ],
)
def test_mistakes_are_named(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetrievalAttention(**{**SMALL, **changes})


def test_dense_reference_is_the_same_cache() -> None:
    """The harness's plain cache holds what this one does."""
    dense, cache = make_dense(), make_cache()
    k, v = entries(40)
    step = store(cache, k, v, 0, 40)
    dense.write(step, k, v)
    for ours, theirs in zip(cache.read(step, 0), dense.read(step, 0), strict=True):
        assert torch.equal(ours, theirs)
