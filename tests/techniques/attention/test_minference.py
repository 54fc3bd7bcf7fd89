"""MInference reads the keys that its algorithms choose and skips the rest; native kernels follow the
reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.kernels.paged import filled_cache, heads, step_of
from tests.tiny import tiny_checkpoint, tiny_engine

from twofold.devices.cpu_device import CpuDevice
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.kernels.cpu.context import CpuContext
from twofold.models.cache import Heads
from twofold.models.catalog import get_spec
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.sparse_attention import EstimateAttention, SparseAttention
from twofold.techniques.attention import sparse_native
from twofold.techniques.attention.minference import MInference, SparsePrefill
from twofold.techniques.attention.pattern_search import CANDIDATES, best_candidates, sized
from twofold.techniques.attention.sparse_patterns import (
    KINDS,
    HeadPattern,
    SparsePlan,
    attend_chosen,
    choose_keys,
    estimate,
    sparse_attention,
)

needs_native = pytest.mark.skipif(native() is None, reason="the native kernels are not built")
SMALL = {"vertical_size": 4, "slash_size": 28, "last_q": 8, "block_size": 16}


def plan_of(kind: str, count: int, vertical: int = 20, slash: int = 76, **changes: int) -> SparsePlan:
    values = {"tile": 16, "last_q": 12, "first": 3, "local": 10, **changes}
    return SparsePlan((HeadPattern(kind, vertical, slash),) * count, **values)


def random_qkv(queries: int, entries: int, layer: Heads, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(queries, layer.heads), (entries, layer.kv_heads), (entries, layer.kv_heads)]
    return tuple(torch.randn(*shape, layer.head_dim, generator=generator) for shape in shapes)


def dense_weights(q: torch.Tensor, k: torch.Tensor, layer: Heads) -> torch.Tensor:
    """softmax(q k) [H, Q, N] with everything computed."""
    wide = k.repeat_interleave(layer.heads // layer.kv_heads, dim=1)
    scores = torch.einsum("qhd,nhd->hqn", q, wide) * layer.scale
    position = torch.arange(k.shape[0] - q.shape[0], k.shape[0])
    return scores.masked_fill(torch.arange(k.shape[0]) > position[:, None], -math.inf).softmax(-1)


# --- the rules ---


def test_vertical_slash_follows_algorithm_2() -> None:
    layer = heads(2, 1, 16)
    q, k, _ = random_qkv(64, 300, layer)
    plan = plan_of("vertical-slash", 2)
    chosen = choose_keys(q, k, layer, plan)
    weights = dense_weights(q, k, layer)[:, -plan.last_q :]
    for head in range(2):
        columns = weights[head].sum(0)
        columns[: plan.first] = math.inf
        wanted = set(columns.topk(20).indices.tolist())
        sums = [float(weights[head].diagonal(300 - 12 - distance).sum()) for distance in range(300)]
        order = sorted(range(300), key=lambda distance: -sums[distance])[:76]
        for (start, end), keys in zip(plan.tiles(Span(64, 300)), chosen[head], strict=True):
            groups = set(range((start - plan.local + 1) // 16, -(-end // 16)))
            for distance in order:
                if len(groups) * 16 >= 76:
                    break
                groups |= {key // 16 for key in range(start - distance, end - distance) if key >= 0}
            expected = {key for key in range(end) if key // 16 in groups or key in wanted}
            assert set(keys.tolist()) == expected


def test_a_shape_reads_the_first_and_the_last_keys() -> None:
    layer = heads(1, 1, 16)
    q, k, _ = random_qkv(32, 320, layer)
    first, second = choose_keys(q, k, layer, plan_of("a-shape", 1, 32, 64))[0]
    assert first.tolist() == [*range(32), *range(240, 304)]
    assert second.tolist() == [*range(32), *range(256, 320)]


def test_block_sparse_ranks_blocks_by_their_means() -> None:
    layer = heads(1, 1, 16)
    q, k, _ = random_qkv(16, 320, layer)
    q = torch.full_like(q, 0.1)
    k[64:80] += 3.0
    k[128:144] -= 3.0
    (keys,) = choose_keys(q, k, layer, plan_of("block-sparse", 1, 16, 32))[0]
    read = set(keys.tolist())
    assert set(range(64, 80)) <= read
    assert set(range(304, 320)) <= read
    assert not read & set(range(128, 144))
    assert len(read) == 48


@pytest.mark.parametrize("kind", KINDS)
def test_attends_exactly_to_the_chosen_keys(kind: str) -> None:
    layer = heads(4, 2, 16, softcap=20.0)
    q, k, v = random_qkv(70, 200, layer)
    plan = plan_of(kind, 4)
    chosen = choose_keys(q, k, layer, plan)
    found = attend_chosen(q, k, v, layer, plan, chosen).view(70, 4, 16)
    position = torch.arange(130, 200)
    for head in range(4):
        scores = q[:, head] @ k[:, head // 2].T * layer.scale
        scores = 20 * torch.tanh(scores / 20)
        seen = torch.zeros(70, 200, dtype=torch.bool)
        for (start, end), keys in zip(plan.tiles(Span(70, 200)), chosen[head], strict=True):
            seen[start - 130 : end - 130, keys] = True
        seen &= torch.arange(200) <= position[:, None]
        expected = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v[:, head // 2]
        assert torch.allclose(found[:, head], expected, atol=1e-5)


def test_reading_all_keys_is_plain_attention() -> None:
    layer = heads(2, 1, 16)
    q, k, v = random_qkv(60, 100, layer)
    plan = plan_of("a-shape", 2, 50, 100)
    chosen = choose_keys(q, k, layer, plan)
    expected = torch.einsum("hqn,nd->qhd", dense_weights(q, k, layer), v[:, 0]).flatten(1)
    assert torch.allclose(attend_chosen(q, k, v, layer, plan, chosen), expected, atol=1e-5)


# --- finding patterns ---


def test_the_search_finds_the_pattern_that_a_head_has() -> None:
    """One head looks at the first keys and its neighbours, one at scattered columns."""
    tokens, dim = 384, 32
    layer = heads(2, 2, dim)
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(tokens, 2, dim, generator=generator) * 0.1 for _ in range(2))
    columns = torch.randperm(tokens, generator=generator)[:60]
    q[:, 0, 0] = q[:, 1, 0] = 12.0
    k[:4, 0, 0] = 6.0
    angle = torch.arange(tokens) / 6.0
    q[:, 0, 1:3] = k[:, 0, 1:3] = torch.stack([angle.cos(), angle.sin()], 1) * 4
    k[columns, 1, 0] = 6.0

    def make(patterns: tuple[HeadPattern, ...]) -> SparsePlan:
        return SparsePlan(patterns, 16, 16, 4, 8)

    first, second = best_candidates(q, k, layer, 64, make)
    assert CANDIDATES[second] == ("vertical-slash", 3500, 100)
    assert CANDIDATES[first] != ("vertical-slash", 3500, 100)


def test_all_candidates_have_as_many_keys() -> None:
    assert {sized(candidate, 700).keys for candidate in CANDIDATES} == {700}


def test_calibration_gives_every_head_a_pattern_of_the_target_size() -> None:
    engine = tiny_engine(techniques=[{"name": "minference", "params": SMALL}])
    (active,) = engine.actives
    technique = active.technique
    assert isinstance(technique, MInference)
    assert technique.calibration is not None
    spec = tiny_checkpoint().spec
    assert sorted(technique.calibration) == list(range(spec.num_layers))
    for patterns in technique.calibration.values():
        assert len(patterns) == spec.num_heads
        assert {p.keys for p in patterns} == {32}
    assert not technique.needs_calibration
    assert MInference().needs_calibration
    assert not MInference(pattern="a-shape").needs_calibration


# --- what is counted ---


def test_the_index_counts_what_is_computed_and_read() -> None:
    layer = heads(2, 1, 16)
    cache = filled_cache(layer, "f32", 40)
    step = step_of([(48, 320), (1, 9)], 40)
    plan = plan_of("vertical-slash", 2)
    q = torch.randn(49, 2, 16)
    index = estimate(None, q, cache, step, plan)  # type: ignore[arg-type]
    assert index.sequences[1] is None
    chosen = index.sequences[0]
    assert chosen is not None
    assert index.pairs == sum(16 * len(keys) for tiles in chosen for keys in tiles)
    assert index.entries == len(set(torch.cat([k for tiles in chosen for k in tiles]).tolist()))


def test_a_prediction_counts_no_more_than_tiles_may_read() -> None:
    plan = plan_of("vertical-slash", 2, 20, 76)
    assert plan.most_pairs(Span(32, 400)) == 32 * 96
    assert plan.most_pairs(Span(32, 64)) == 16 * 48 + 16 * 64


def test_counters_and_skipped_work() -> None:
    engine = tiny_engine(techniques=[{"name": "minference", "params": SMALL}])
    engine.generate([list(range(3, 63))], SamplingParams(max_tokens=2, ignore_eos=True))
    counters = engine.actives[0].counters
    assert counters["pairs_skipped"] > 0
    spec = tiny_checkpoint().spec
    assert (
        counters["pairs_computed"] + counters["pairs_skipped"] == 60 * 60 * spec.num_heads * spec.num_layers
    )
    assert counters["scores_estimated"] > 0


def test_short_steps_are_recorded_as_one_op() -> None:
    prefill = SparsePrefill(plan_of("a-shape", 2), {})
    assert prefill.is_one_op(11)
    assert not prefill.is_one_op(12)


# --- refused ---


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ratio": 0}, "ratio must be positive"),
        ({"block_size": 40}, "multiple of 16"),
        ({"block_size": 256}, "at most 128"),
        ({"pattern": "vertical"}, "vertical-slash"),
        ({"vertical_size": 0}, "at least 1"),
        ({"ratio": 0.001}, "raise ratio"),
    ],
)
def test_parameters_are_checked(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MInference(**params)


def test_models_without_whole_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="one latent per token"):
        MInference().check(get_spec("deepseek-v3"))


# --- native ---


def natively(ctx: CpuContext, q: torch.Tensor, cache: Any, step: StepInput, plan: SparsePlan) -> Any:
    blank: Any = None
    index = sparse_native.estimate(ctx, blank, q, cache, step, plan)
    _, plain = cache.ops(step)
    op = SparseAttention(
        *(getattr(plain, name) for name in ("totals", "heads", "kv_heads", "head_dim")),
        *(getattr(plain, name) for name in ("v_dim", "cache_bytes", "compute", "act_bytes")),
    )
    return index, sparse_native.sparse_attention(ctx, op, q, cache, step, index, plan), op


@needs_native
@pytest.mark.parametrize("isa", [] if native() is None else native().supported_isas())
@pytest.mark.parametrize("fmt", ["f32", "f16", "int8", "int4"])
@pytest.mark.parametrize("kind", KINDS)
def test_native_equals_reference(isa: str, fmt: str, kind: str) -> None:
    before = native().isa()
    native().use_isa(isa)
    try:
        torch.manual_seed(3)
        layer = heads(6, 2, 32, v_dim=40, softcap=30.0)
        cache = filled_cache(layer, fmt, 80)
        step = step_of([(70, 500), (1, 30), (37, 300), (5, 200)], 80)
        plan = plan_of(kind, 6, 70, 90, tile=32)
        q = torch.randn(113, 6, 32)
        index, found, op = natively(CpuContext(native(), 2), q, cache, step, plan)
        expected_index = estimate(None, q, cache, step, plan)  # type: ignore[arg-type]
        assert index.sequences == [0, 2]
        if kind == "a-shape" or fmt == "f32":
            assert index.pairs == expected_index.pairs
            assert index.entries == expected_index.entries
        # Ties and last bits may rank two lines differently: attention is compared on the native choice.
        for nth, seq in enumerate(index.sequences):
            span = step.spans[seq]
            expected_index.sequences[seq] = [
                [
                    torch.tensor(index.keys(nth, head, tile, end))
                    for tile, (_, end) in enumerate(plan.tiles(span))
                ]
                for head in range(6)
            ]
        expected = sparse_attention(op, q, cache, step, expected_index, plan)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    finally:
        native().use_isa(before)


@needs_native
def test_native_engine_reaches_native_kernels() -> None:
    device = CpuDevice(kernels="native-fp32", threads=2)
    engine = tiny_engine(
        device=device,
        techniques=[{"name": "minference", "params": SMALL}],
        engine={"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "block_size": 16},
    )
    plain = tiny_engine(techniques=[{"name": "minference", "params": SMALL}])
    asked = [[(7 * i * i + 3 * i) % 150 + 3 for i in range(180)]]
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    got = [c.token_ids for c in engine.generate(asked, params)]
    assert got == [c.token_ids for c in plain.generate(asked, params)]
    assert not {"EstimateAttention", "SparseAttention"} & set(device.reference_ops)


def test_ops_count_scores_without_values() -> None:
    plain = EstimateAttention(
        step_of([(64, 300)], 20).totals(None)._replace(pairs=640), 4, 2, 16, 0, 1000, "fp32", 4
    )
    assert plain.cost().flop == 2 * 640 * 4 * 16
