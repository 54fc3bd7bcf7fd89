"""Attention over signs, against products of signs written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_checkpoint, tiny_engine

from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.models.cache import CacheSize, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.attention.had import Had
from twofold.techniques.attention.had_cache import HadCache, HeadCodes, hamming_attention
from twofold.techniques.attention.had_file import load_codes, save_codes
from twofold.techniques.attention.had_layout import HadLayout, TopN
from twofold.techniques.attention.hamming import SignMap, hamming_distances, signs_of

Entries = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each sequence."""


def attend_slowly(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: Heads, scale: torch.Tensor, top: TopN
) -> torch.Tensor:
    """Signs q [Q, H, D] and k [N, K, D], values v [N, K, D]: one query and head after the other."""
    out = torch.zeros(len(q), heads.heads, v.shape[-1])
    group = heads.heads // heads.kv_heads
    for query in range(len(q)):
        position = len(k) - len(q) + query
        begin = 0 if heads.window is None else max(0, position + 1 - heads.window)
        for head in range(heads.heads):
            scores = [float(q[query, head] @ k[e, head // group]) for e in range(begin, position + 1)]
            order = sorted(range(len(scores)), key=lambda i: (-scores[i], -i))[: top.kept(len(scores))]
            logits = torch.tensor([scores[i] for i in order]) * scale[head]
            if heads.softcap is not None:
                logits = heads.softcap * torch.tanh(logits / heads.softcap)
            chosen = v[[begin + i for i in order], head // group]
            out[query, head] = logits.softmax(-1) @ chosen
    return out.flatten(1)


def learned(heads: Heads, *, turned: bool) -> HeadCodes:
    d, scale = heads.head_dim, torch.rand(heads.heads) * 0.1 + 0.02
    if not turned:
        return HeadCodes(SignMap(), SignMap(), scale)
    return HeadCodes(
        SignMap(torch.randn(heads.heads, d, d), torch.randn(heads.heads, d)),
        SignMap(torch.randn(heads.kv_heads, d, d), torch.randn(heads.kv_heads, d)),
        scale,
    )


def filled(
    heads: Heads, top: TopN, spans: list[Span], *, turned: bool
) -> tuple[HadCache, StepInput, Entries]:
    """A cache that holds all but the newest entries of `spans`, and the step that adds those."""
    block, blocks = 16, [-(-s.keys // 16) for s in spans]
    cache = HadCache(heads, block, HadLayout(top), learned(heads, turned=turned), turned=turned)
    cache.allocate(CacheSize(sum(blocks) + 1, block, len(spans)), torch.device("cpu"))
    order = torch.randperm(sum(blocks)).tolist()
    tables = [[order.pop() for _ in range(count)] for count in blocks]
    entries = [
        (
            torch.randn(s.keys, heads.kv_heads, heads.head_dim),
            torch.randn(s.keys, heads.kv_heads, heads.v_dim),
        )
        for s in spans
    ]

    def step(parts: list[tuple[int, int]]) -> StepInput:
        slots = [
            tables[i][e // block] * block + e % block for i, (a, b) in enumerate(parts) for e in range(a, b)
        ]
        found = [Span(b - a, b) for a, b in parts]
        return StepInput(
            found,
            len(slots),
            0,
            torch.zeros(len(slots), dtype=torch.int64),
            slots=torch.tensor(slots),
            block_tables=tables,
            block_size=block,
        )

    old = [(0, s.keys - s.queries) for s in spans]
    for i, (_, end) in enumerate(old):
        if end:
            only = [(0, end if j == i else 0) for j in range(len(old))]
            k, v = entries[i]
            cache.write(step(only), k[:end], v[:end])
    return cache, step([(s.keys - s.queries, s.keys) for s in spans]), entries


SPANS = [[Span(1, 75)], [Span(1, 40), Span(33, 33), Span(20, 90)], [Span(5, 5), Span(1, 1)]]
HEADS = [
    Heads(4, 2, 64, 64, 0.125, None, None, "fp32", 4),
    Heads(6, 2, 128, 64, 0.1, 5.0, 30, "fp32", 4),
    Heads(3, 3, 24, 40, 0.2, None, 7, "fp32", 4),
]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("spans", SPANS)
def test_reference_equals_products_of_signs(spans: list[Span], heads: Heads, turned: bool) -> None:
    torch.manual_seed(len(spans))
    cache, step, entries = filled(heads, TopN(4, 16), spans, turned=turned)
    new = [torch.cat([e[side][-s.queries :] for e, s in zip(entries, spans, strict=True)]) for side in (0, 1)]
    q = torch.randn(step.num_tokens, heads.heads, heads.head_dim)
    write, attention = cache.ops(step)
    cache.write(step, *new)
    got = hamming_attention(attention, q, cache, step)
    codes, start = cache.learned, 0
    assert codes is not None
    for (k, v), span in zip(entries, spans, strict=True):
        rows = slice(start, start + span.queries)
        signs = (torch.where(x >= 0, 1.0, -1.0) for x in (codes.q.turned(q[rows]), codes.k.turned(k)))
        want = attend_slowly(*signs, v.half().float(), heads, codes.scale, cache.layout.top)
        assert torch.allclose(got[rows], want, atol=1e-4)
        start += span.queries
    assert write.cost().bytes_written == step.num_tokens * heads.kv_heads * (
        heads.head_dim // 8 + 2 * heads.v_dim
    )


@pytest.mark.skipif(native() is None, reason="needs the native kernels")
@pytest.mark.parametrize("isa", native().supported_isas() if native() is not None else [])  # type: ignore[union-attr]
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("spans", SPANS)
def test_native_kernels_equal_the_reference(spans: list[Span], heads: Heads, turned: bool, isa: str) -> None:
    from twofold.kernels.cpu.context import CpuContext

    extension, best = native(), native().isa()  # type: ignore[union-attr]
    torch.manual_seed(len(spans))
    cache, step, entries = filled(heads, TopN(4, 16), spans, turned=turned)
    k, v = (
        torch.cat([e[side][-s.queries :] for e, s in zip(entries, spans, strict=True)]) for side in (0, 1)
    )
    q = torch.randn(step.num_tokens, heads.heads, heads.head_dim)
    _, attention = cache.ops(step)
    cache.write(step, k, v)
    want = hamming_attention(attention, q, cache, step)
    stored = {name: t.clone() for name, t in cache.tensors.items()}
    block, at = step.slots // cache.block_size, step.slots % cache.block_size
    for t in cache.tensors.values():
        t[block, :, at] = 0  # what the kernel is to write
    try:
        extension.use_isa(isa)  # type: ignore[union-attr]
        ctx = CpuContext(extension, 2)
        assert cache.write_native(ctx, step, k, v) is None
        got = cache.attend_native(ctx, attention, q, step)
    finally:
        extension.use_isa(best)  # type: ignore[union-attr]
    assert all(torch.equal(stored[name], t) for name, t in cache.tensors.items())
    assert torch.allclose(got, want, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 40),
    more=st.integers(0, 60),
    window=st.sampled_from([None, 1, 5, 64]),
    spans=st.lists(st.tuples(st.integers(1, 80), st.integers(0, 120)), min_size=1, max_size=4),
)
def test_counts_are_those_of_every_query(
    n: int, more: int, window: int | None, spans: list[tuple[int, int]]
) -> None:
    top = TopN(n, n + more)
    found = HadLayout(top).compared([Span(q, q + b) for q, b in spans], window, 3)
    sees = [[min(b + i + 1, window or b + i + 1) for i in range(q)] for q, b in spans]
    assert found.seen == sum(map(sum, sees))
    assert found.kept == sum(top.kept(v) for each in sees for v in each)
    runs = [run for q, b in spans for run in top.runs(b, q + b, window, 16)]
    assert sum((end - begin) * kept for begin, end, kept in runs) == found.kept


def test_distances_of_codes_are_those_of_signs() -> None:
    a, b = torch.randn(5, 3, 40), torch.randn(5, 3, 40)
    codes = SignMap().codes(a), SignMap().codes(b)
    assert codes[0].shape == (5, 3, 5)
    inner = (signs_of(codes[0]) * signs_of(codes[1])).sum(-1)
    assert torch.equal(40 - 2 * hamming_distances(*codes), inner.long())
    assert torch.equal(signs_of(codes[0]) > 0, a >= 0)


def test_keys_take_a_bit_an_element() -> None:
    engine = tiny_engine(techniques=[{"name": "had", "params": {"n": 8, "context": 16}}])
    plain = tiny_engine()
    cache = engine.runner.caches[0]
    assert cache.tensors["codes"].dtype == torch.uint8
    h = cache.heads
    assert cache.block_bytes() == cache.block_size * h.kv_heads * (h.head_dim // 8 + 2 * h.v_dim)
    assert cache.block_bytes() < plain.runner.caches[0].block_bytes() / 2


def test_only_the_nearest_are_attended_to() -> None:
    engine = tiny_engine(techniques=[{"name": "had", "params": {"n": 2, "context": 16}}])
    engine.generate([[5, 6, 7, 8] * 10], SamplingParams(max_tokens=4, ignore_eos=True))
    counters = engine.actives[0].counters
    assert 0 < counters["entries_attended"] < counters["entries_compared"] / 4


def test_a_file_is_what_was_learned(tmp_path: Path) -> None:
    spec = tiny_checkpoint().spec
    heads = Heads(spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.head_dim, 1.0, None, None, "fp32", 4)
    path = tmp_path / "heads.safetensors"
    codes = [learned(heads, turned=True) for _ in range(spec.num_layers)]
    save_codes(path, codes, {})
    for mine, theirs in zip(load_codes(path), codes, strict=True):
        assert all(torch.equal(mine.tensors[name], t) for name, t in theirs.tensors.items())
    engine = tiny_engine(techniques=[{"name": "had", "params": {"distilled": str(path)}}])
    model = engine.runner.model
    assert model.allocated() == model.weight_bytes() > tiny_engine().runner.model.weight_bytes()
    engine.generate([[5, 6, 7]], SamplingParams(max_tokens=2, ignore_eos=True))
    with pytest.raises(ValueError, match="distilled from another model"):
        Had(distilled=str(path)).check(tiny_checkpoint("gemma3").spec)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"n": 30, "context": 20}, "context must be at least n"),
        ({"distilled": "nowhere.safetensors"}, "twofold distill"),
    ],
)
def test_mistakes_are_told(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Had.from_params(params)
