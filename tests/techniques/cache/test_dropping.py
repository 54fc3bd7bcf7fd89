"""Techniques that drop or merge cache entries, against what their sources say, on the tiny model: real
caches, any stored format, interrupted requests, modelled devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.engine.test_engine import prompts
from tests.test_invariants import TimedModel
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.devices.cpu_device import CpuDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import Request, SamplingParams
from twofold.kernels.cpu import native
from twofold.kernels.cpu.cache import NativeCache
from twofold.kernels.cpu.cache_formats import FORMATS, entry_format
from twofold.kernels.reference.compaction import received
from twofold.kernels.registry import REFERENCE
from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.dense_cache import DenseCache
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.compaction import Compaction, KeyScores, Observed
from twofold.techniques.cache.elastic_cache import ElasticCache, merge, nearest
from twofold.techniques.cache.h2o import H2o
from twofold.techniques.cache.snapkv import SnapKv
from twofold.techniques.cache.streaming_llm import StreamingLlm
from twofold.techniques.registry import make_technique

HEADS = Heads(4, 2, 8, 8, 0.3, None, None, "fp32", 4)
USES: dict[str, dict[str, Any]] = {
    "streaming-llm": {"start_size": 2, "recent_size": 10},
    "snapkv": {"window_size": 4, "max_capacity_prompt": 16, "kernel_size": 3},
    "h2o": {"heavy_ratio": 0.2, "recent_ratio": 0.2},
    "elastic-cache": {"ratio": 0.5},
}


def engine(name: str, **limits: Any) -> Engine:
    options = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, **limits}
    return tiny_engine(techniques=[{"name": name, "params": USES[name]}], engine=options)


def outputs(e: Engine, asked: Sequence[list[int]], tokens: int) -> list[list[int]]:
    done = e.generate(asked, SamplingParams(max_tokens=tokens, ignore_eos=True))
    return [c.token_ids for c in done]


# --- entries


def filled(cache: CacheLayer, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A cache whose slots hold random entries, which are returned as they are read."""
    cache.allocate(CacheSize(blocks, cache.block_size, 1), torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    shape = (blocks * cache.block_size, 2, 8)
    k, v = (torch.randn(shape, generator=generator) for _ in "kv")
    slots = torch.arange(shape[0])
    cache.store(slots, k, v)
    for name, tensor in cache.tensors.items():
        if name == "scores":
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return cache.load(slots)


def caches() -> list[CacheLayer]:
    made: list[CacheLayer] = [DenseCache(HEADS, 16)]
    made += [NativeCache(HEADS, 16, entry_format(name)) for name in FORMATS]
    return made


@pytest.mark.parametrize("cache", caches(), ids=lambda c: c.stored_as or "dense")
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("kernel", ["reference", "native"])
def test_entries_move_as_they_are_stored(cache: CacheLayer, per_head: bool, kernel: str) -> None:
    cache.retainer = SnapKv().retention().retainer(0)
    k, v = filled(cache, 5)
    scores = cache.tensors["scores"].flatten(0, 1).clone()
    slots = torch.cat([torch.arange(b * 16, b * 16 + 16) for b in (3, 0, 4)])  # a table out of order
    generator = torch.Generator().manual_seed(5)
    chosen = torch.stack([torch.randperm(48, generator=generator)[:21].sort().values for _ in range(2)], 1)
    if not per_head:
        chosen = chosen[:, 0]
    source, target = slots[chosen], slots[:21]
    if kernel == "native":
        if native() is None:
            pytest.skip("native kernels are not installed")
        from twofold.kernels.cpu.compaction import move_entries

        context = CpuDevice(kernels="native", threads=2).context
        assert context is not None
        move_entries(context, cache, source, target)
    else:
        cache.move(source, target)
    heads = torch.arange(2)
    from_slots = source if per_head else source[:, None].expand(-1, 2)
    moved_k, moved_v = cache.load(target)
    assert torch.equal(moved_k, k[from_slots, heads])
    assert torch.equal(moved_v, v[from_slots, heads])
    assert torch.equal(cache.tensors["scores"].flatten(0, 1)[target], scores[from_slots, heads])
    rest = torch.tensor(sorted(set(range(80)) - set(target.tolist())))
    assert torch.equal(cache.load(rest)[0], k[rest])


@pytest.mark.parametrize("cache", caches(), ids=lambda c: c.stored_as or "dense")
def test_keys_alone_are_the_keys_that_are_read(cache: CacheLayer) -> None:
    k, _ = filled(cache, 4)
    slots = torch.cat([torch.arange(48, 64), torch.arange(16)])[:27]
    assert torch.equal(cache.load_keys(slots).permute(2, 0, 1), k[slots])


def test_received_attention_is_a_column_sum_of_the_softmax() -> None:
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(70, 4, 8, generator=generator)
    k = torch.randn(90, 2, 8, generator=generator)
    ours = received(q, k.permute(1, 2, 0), HEADS)
    wide = k.repeat_interleave(2, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q.double(), wide.double()) * HEADS.scale
    hidden = torch.arange(90)[None] > 20 + torch.arange(70)[:, None]
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    assert torch.allclose(ours.double(), weights.sum(1).view(2, 2, 90).sum(1), atol=1e-5)
    assert float(ours.sum()) == pytest.approx(4 * 70, rel=1e-5)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("lengths", [((1, 1), (40, 300)), ((70, 3), (70, 530)), ((33, 1), (290, 17))])
def test_native_scores_are_the_references(name: str, lengths: tuple[tuple[int, int], ...]) -> None:
    queries, keys = lengths
    extension = native()
    if extension is None:
        pytest.skip("native kernels are not installed")
    from twofold.kernels.cpu.compaction import key_scores

    generator = torch.Generator().manual_seed(8)
    tables = [list(range(i, 2 * 34, 2))[: -(-k // 16)] for i, k in enumerate(keys)]
    spans = [Span(n, k) for n, k in zip(queries, keys, strict=True)]
    q = torch.randn(sum(queries), 4, 8, generator=generator) * 3
    for begins, softcap in ((True, None), (False, 5.0)):
        heads = replace(HEADS, softcap=softcap)
        cache = NativeCache(heads, 16, entry_format(name))
        cache.retainer = H2o().retention().retainer(0)
        filled(cache, 68)
        seen = [Observed(range(queries[0] // 2, queries[0]), begins), Observed(range(queries[1]), begins)]
        step = StepInput(spans, len(q), 0, block_tables=tables, block_size=16, observed=seen)
        before = cache.tensors["scores"].clone()
        op = cache.retainer.scores_op(cache, step)
        REFERENCE[KeyScores](op, cache, step, q)
        wanted = cache.tensors["scores"].clone()
        for isa in extension.supported_isas():
            cache.tensors["scores"].copy_(before)
            extension.use_isa(isa)
            try:
                context = CpuDevice(kernels="native", threads=2).context
                assert context is not None
                assert key_scores(context, op, cache, step, q) is None
            finally:
                extension.use_isa(extension.supported_isas()[0])
            assert torch.allclose(cache.tensors["scores"], wanted, atol=2e-5), isa
        assert not torch.equal(wanted, before)


# --- choices


def cut(entries: int, kept: int, *, computed: int | None = None, context: int | None = None) -> Compaction:
    table = list(range(-(-entries // 16)))
    return Compaction(table, entries, kept, computed or entries, context or entries)


def scored(technique: Any, scores: torch.Tensor) -> tuple[CacheLayer, torch.Tensor]:
    """A cache whose first slots have the `scores` [N, K]."""
    cache = DenseCache(HEADS, 16)
    cache.retainer = technique.retention().retainer(0)
    filled(cache, -(-len(scores) // 16))
    cache.tensors["scores"].flatten(0, 1)[: len(scores)] = scores
    return cache, torch.arange(len(scores))


def test_streaming_llm_keeps_the_first_and_the_last() -> None:
    cache = DenseCache(HEADS, 16)
    retainer = StreamingLlm(start_size=2, recent_size=5).retention().retainer(0)
    assert retainer.keep(cache, torch.arange(20), cut(20, 7)).tolist() == [0, 1, 15, 16, 17, 18, 19]


def test_h2o_keeps_heavy_hitters_and_the_last_for_each_head() -> None:
    technique = H2o(heavy_ratio=0.2, recent_ratio=0.3)
    scores = torch.zeros(10, 2)
    scores[[1, 4], 0], scores[[0, 6], 1] = 1.0, 1.0
    scores[8:] = 9.0  # recent ones stay anyway and take no heavy hitter's place
    cache, slots = scored(technique, scores)
    assert cache.retainer is not None
    assert cache.retainer.keep(cache, slots, cut(10, 5)).T.tolist() == [[1, 4, 7, 8, 9], [0, 6, 7, 8, 9]]


def test_snapkv_keeps_the_best_neighbourhoods_and_the_window() -> None:
    technique = SnapKv(window_size=2, max_capacity_prompt=5, kernel_size=3)
    scores = torch.zeros(12, 2)
    scores[4, 0], scores[8, 1] = 1.0, 1.0  # averaged: 3, 4, 5 and 7, 8, 9
    scores[10:] = 9.0  # of the window itself: not looked at
    cache, slots = scored(technique, scores)
    assert cache.retainer is not None
    assert cache.retainer.keep(cache, slots, cut(12, 5)).T.tolist() == [[3, 4, 5, 10, 11], [7, 8, 9, 10, 11]]


def test_elastic_cache_merges_into_the_nearest_anchor() -> None:
    technique = ElasticCache(ratio=0.5, start_size=1)
    scores = torch.zeros(10, 2)
    scores[[2, 6, 7], 0], scores[[1, 4, 8], 1] = 1.0, 1.0
    cache, slots = scored(technique, scores)
    k, v = cache.load(slots)
    assert cache.retainer is not None
    cache.retainer.compact(cache, cut(10, 5), cache.move)
    groups = (
        [[0], [1, 2, 3, 4], [5, 6], [7, 8], [9]],
        [[0], [1, 2], [3, 4, 5, 6], [7, 8], [9]],
    )  # 4 lies between 2 and 6, and 6 between 4 and 8: the earlier one takes it
    for got, before in zip(cache.load(slots[:5]), (k, v), strict=True):
        for head, grouped in enumerate(groups):
            means = torch.stack([before[group, head].mean(0) for group in grouped])
            assert torch.allclose(got[:, head], means, atol=1e-6)


def test_nearest_and_merge_against_loops() -> None:
    generator = torch.Generator().manual_seed(9)
    for count in (1, 2, 7, 30):
        anchors = torch.stack([torch.randperm(30, generator=generator)[:count].sort().values for _ in "ab"])
        into = nearest(anchors, 30)
        for head in range(2):
            wanted = [min(range(count), key=lambda a: (abs(int(anchors[head, a]) - i), a)) for i in range(30)]
            assert into[head].tolist() == wanted
        x = torch.randn(30, 2, 8, generator=generator)
        for head in range(2):
            for anchor in range(count):
                mean = x[into[head] == anchor, head].mean(0)
                assert torch.allclose(merge(x, into, count)[anchor, head], mean, atol=1e-6)


def test_elastic_cache_drops_at_the_fixed_point_in_generation() -> None:
    technique = ElasticCache(ratio=0.5, distance=-3)
    retainer = technique.retention().retainer(0)
    assert technique.fixed_point(20) == 7
    numbers = retainer.keep(DenseCache(HEADS, 16), torch.arange(30), cut(30, 14, computed=28, context=20))
    assert numbers.tolist() == [*range(7), *range(23, 30)]


# --- lengths


@pytest.mark.parametrize("name", USES)
def test_what_stays_follows_from_lengths_and_is_bounded(name: str) -> None:
    retention = make_technique(name, USES[name]).retention()
    assert retention is not None
    for context in (1, 3, 17, 40, 100):
        slots = computed = 0
        for chunk in [24] * 3 + [context] + [1] * 120 + [5] * 20:
            num = min(chunk, context - computed) if computed < context else min(chunk, 5)
            slots, computed = slots + num, computed + num
            kept = retention.kept(slots, computed, context)
            assert 0 < kept <= slots
            assert retention.kept(kept, computed, context) == kept, "nothing is dropped twice"
            assert kept <= retention.most(computed, context) <= computed
            slots = kept
        assert slots < computed or (name, context) in {("snapkv", 1), ("snapkv", 3)}


@pytest.mark.parametrize("name", USES)
def test_attention_is_observed_once_for_every_token_that_counts(name: str) -> None:
    retention = make_technique(name, USES[name]).retention()
    assert retention is not None
    for context, chunk in ((40, 7), (40, 40), (40, 4), (37, 36)):
        seen: list[int] = []
        begun = 0
        for start in range(0, context, chunk):
            queries = min(chunk, context - start)
            found = retention.observed(start, queries, context)
            if found is not None:
                assert (not seen) == found.begins
                begun += found.begins
                seen += [start + i for i in found.tokens]
        first = {"streaming-llm": context, "snapkv": context - 4, "h2o": 0, "elastic-cache": 0}[name]
        assert seen == list(range(first, context))
        assert begun == (first < context)


# --- engines


@pytest.mark.parametrize("name", USES)
def test_less_is_held_and_read(name: str) -> None:
    asked = [(p * 3)[:90] for p in prompts(3, seed=4, longest=60)]
    ours, plain = engine(name), tiny_engine(engine={"max_num_seqs": 4, "max_num_batched_tokens": 64})
    ends: list[tuple[int, int]] = []
    for e in (ours, plain):
        e.reset_totals()
        requests = [e.add(p, SamplingParams(max_tokens=40, ignore_eos=True)) for p in asked]
        while e.has_work:
            e.step()
        ends.append((sum(r.num_slots for r in requests), int(e.device.totals["attention"].bytes_moved)))
    assert ends[0][0] < 0.7 * ends[1][0]
    assert ends[0][1] < ends[1][1]
    counters = ours.actives[0].counters
    assert counters["compactions"] >= 3
    assert counters["dropped"] > 60


@pytest.mark.parametrize("name", USES)
def test_nothing_changes_before_something_is_dropped(name: str) -> None:
    asked = [p[:11] for p in prompts(3, seed=6, longest=60)]
    tokens = {"streaming-llm": 10, "snapkv": 40}.get(name, 1)
    plain = tiny_engine(engine={"max_num_seqs": 4, "max_num_batched_tokens": 64})
    assert outputs(engine(name), asked, tokens) == outputs(plain, asked, tokens)


@pytest.mark.parametrize("name", USES)
def test_requests_do_not_disturb_each_other(name: str) -> None:
    asked = [(p * 3)[:70] for p in prompts(5, seed=7, longest=60)]
    whole = {"max_num_batched_tokens": 512}  # no prompt is cut because of another
    together = outputs(engine(name, **whole), asked, 30)
    alone = engine(name, **whole, max_num_seqs=1)
    assert together == [outputs(alone, [p], 30)[0] for p in asked]


def squeezed(e: Engine, asked: Sequence[list[int]], tokens: int) -> list[Request]:
    """Requests that run while memory comes and goes."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    requests = [e.add(p, params) for p in asked]
    blocks = e.scheduler.blocks
    for number in range(1000):
        if not e.has_work:
            break
        if number % 8 == 4:
            blocks.withhold(blocks.num_free)
        if number % 8 == 7:
            blocks.restore()
        e.step()
    blocks.restore()
    assert e.scheduler.num_preempted, "memory was never short: nothing was tested"
    return requests


@pytest.mark.parametrize("name", USES)
def test_swapped_requests_go_on_as_if_nothing_had_happened(name: str) -> None:
    asked = [(p * 3)[:70] for p in prompts(4, seed=9, longest=60)]
    limits = {"block_size": 4, "max_num_batched_tokens": 512}
    short = engine(name, **limits, preemption="swap")
    requests = squeezed(short, asked, 60)
    assert short.scheduler.blocks.num_swapped_in
    assert [r.output_ids for r in requests] == outputs(engine(name, **limits), asked, 60)


@pytest.mark.parametrize("name", ["snapkv", "streaming-llm"])
def test_recomputed_requests_keep_to_the_same_lengths(name: str) -> None:
    asked = [(p * 3)[:70] for p in prompts(4, seed=9, longest=60)]
    short = engine(name, block_size=4)
    retention = short.scheduler.retention
    assert retention is not None
    for request in squeezed(short, asked, 60):
        assert request.num_output_tokens == 60
        assert request.num_slots <= retention.most(request.num_computed, request.num_context_tokens)


@pytest.mark.parametrize("name", USES)
def test_drafts_are_verified_over_what_stays(name: str) -> None:
    asked = [(p[:9] * 8)[:70] for p in prompts(4, seed=11, longest=60)]
    uses = [{"name": name, "params": USES[name]}, {"name": "copyspec", "params": {"gamma": 1}}]
    e = tiny_engine(techniques=uses, engine={"max_num_seqs": 4, "max_num_batched_tokens": 64})
    assert all(len(ids) == 40 for ids in outputs(e, asked, 40))
    e.check_techniques()
    assert e.totals.drafted > 0


@pytest.mark.parametrize("name", USES)
def test_native_kernels_choose_as_reference_kernels_do(name: str) -> None:
    if native() is None:
        pytest.skip("native kernels are not installed")
    asked = [(p * 3)[:70] for p in prompts(3, seed=12, longest=60)]
    limits = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "block_size": 16, "cache_format": "f32"}
    plan = {"techniques": [{"name": name, "params": USES[name]}], "engine": {**limits}}
    ours = tiny_engine(device=CpuDevice(kernels="native-fp32", threads=2), **plan)
    assert isinstance(ours.runner.caches[0], NativeCache)
    del plan["engine"]["cache_format"]
    assert outputs(ours, asked, 30) == outputs(tiny_engine(**plan), asked, 30)


@pytest.mark.parametrize("name", USES)
def test_predictions_drop_as_much_as_runs(name: str) -> None:
    asked = [(p * 3)[:70] for p in prompts(4, seed=13, longest=60)]
    uses = [{"name": name, "params": USES[name]}]
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    real = tiny_engine(techniques=uses)
    modelled = build_engine(tiny_plan(techniques=uses), TimedModel(), tiny_checkpoint().spec)
    real.play([(0.0, p, params) for p in asked])
    modelled.play([(0.0, len(p), params) for p in asked])
    assert real.actives[0].counters == modelled.actives[0].counters
    ours, theirs = real.device.totals, modelled.device.totals
    assert ours.keys() - {"sample"} == theirs.keys() - {"sample"}
    for kind in ours.keys() & {"compact", "key-scores", "attention", "cache-write"}:
        assert ours[kind].bytes_moved == theirs[kind].bytes_moved, kind


def test_scoring_drops_as_generation_does() -> None:
    ids = [5 + i * i % 90 for i in range(120)]
    e = engine("streaming-llm")
    e.score(ids, 80)
    assert e.actives[0].counters["dropped"] >= 120 - 12 - 16 - 1


# --- refusals


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("streaming-llm", {"start_size": 0}, "start_size must be at least 1"),
        ("snapkv", {"kernel_size": 4}, "use 5"),
        ("snapkv", {"window_size": 64, "max_capacity_prompt": 64}, "more than window_size"),
        ("h2o", {"heavy_ratio": 0.0}, "between 0 and 1"),
        ("h2o", {"heavy_ratio": 0.6, "recent_ratio": 0.6}, "at most 1 together, not 1.2"),
        ("elastic-cache", {"ratio": 1.0}, "between 0 and 1"),
    ],
)
def test_wrong_parameters_are_refused(name: str, params: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_technique(name, params)


@pytest.mark.parametrize("name", USES)
def test_sliding_windows_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="leave"):
        tiny_engine("gemma3", techniques=[{"name": name, "params": USES[name]}])
