"""ZipVL: which tokens are important, what is computed for the others, and how entries are stored."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_engine

from twofold.engine.request import SamplingParams
from twofold.models.cache import CacheSize, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.techniques.cache.zipvl import ZipVL
from twofold.techniques.cache.zipvl_cache import ZipCache
from twofold.techniques.cache.zipvl_codes import quantise_rows, widen_rows
from twofold.techniques.cache.zipvl_ops import ZipAttention, zip_attention
from twofold.techniques.cache.zipvl_select import SelectImportant, important, probe_rows, select_important
from twofold.techniques.cache.zipvl_store import Zipped

HEADS = Heads(4, 2, 16, 16, 0.25, None, None, "fp32", 4)


def made(*, blocks: int = 8, high_share: float = 1.0) -> ZipCache:
    cache = ZipCache(HEADS, 16, Zipped(0.975, 4, high_share))
    cache.allocate(CacheSize(blocks, 16, 2), torch.device("cpu"))
    return cache


def step_of(queries: int, entries: int, row: int = 0) -> StepInput:
    slots = torch.arange(entries)
    return StepInput(
        [Span(queries, entries)],
        queries,
        0,
        torch.zeros(queries, dtype=torch.int64),
        slots=slots[entries - queries :],
        tables=[slots],
        rows=[row],
    )


def test_important_tokens_are_as_few_as_hold_the_attention() -> None:
    probed = torch.tensor([5.0, 0.1, 0.1, 3.0, 0.1, 1.0])
    seen = torch.tensor([10, 10, 10, 10, 1, 1])
    # 5 + 3 + 1 of 9.3 are 96.8 %: three tokens hold 95 %; of those, the newest and the greatest means.
    assert important(probed, seen, 0.95).tolist() == [0, 3, 5]
    assert important(probed, seen, 0.5).tolist() == [5]
    assert important(probed, seen, 0.9999).tolist() == list(range(6))


def test_probes_are_the_newest_and_others_spread() -> None:
    rows = probe_rows(100, 10)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows[-10:].tolist() == list(range(90, 100))
    assert rows[:10].tolist() == list(range(0, 90, 9))
    assert probe_rows(5, 10).tolist() == list(range(5))
    assert len(probe_rows(15, 10)) == 15


def test_selection_equals_attention_written_out() -> None:
    torch.manual_seed(0)
    tokens, entries = 30, 40
    q, keys = torch.randn(tokens, 4, 16) * 2, torch.randn(entries, 2, 16) * 2
    got = select_important(SelectImportant(8, tokens, entries, 4, 2, 16, 0, 4), q, keys, HEADS, 4, 0.8)
    weights = torch.zeros(entries)
    for row in probe_rows(tokens, 4).tolist():
        position = entries - tokens + row
        for head in range(4):
            scores = keys[: position + 1, head // 2] @ q[row, head] * HEADS.scale
            weights[: position + 1] += scores.softmax(0)
    own = weights[entries - tokens :]
    ordered = own.sort(descending=True).values.cumsum(0)
    count = int((ordered < 0.8 * ordered[-1]).sum()) + 1
    assert len(got) == count < tokens
    assert got[-1] == tokens - 1
    assert torch.equal(got, got.sort().values)


@pytest.mark.parametrize("high", [True, False])
def test_codes_are_as_near_as_their_bits_allow(high: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(7, 4, 16)
    upper, lower, scales = quantise_rows(x, torch.full((7,), high))
    at = torch.arange(7) if high else torch.arange(0)
    back = widen_rows(upper, lower[at], at, scales, 4)
    step = (x.amax(-1) - x.amin(-1)) / (15 if high else 3)
    assert ((back - x).abs().amax(-1) <= step * 0.51 + 2e-3).all()
    assert upper.shape == lower.shape == (7, 16)


def test_entries_come_back_with_the_bits_they_were_given() -> None:
    torch.manual_seed(2)
    cache, step = made(), step_of(40, 40)
    k, v = torch.randn(40, 2, 16), torch.randn(40, 2, 16)
    chosen = torch.arange(0, 40, 2)
    cache.write(step, k, v, [chosen])
    nothing = torch.zeros(1, 2, 16)
    keys, values = cache.read(step_of(1, 41), 0, nothing, nothing)
    error = (keys[:40] - k).abs().mean((1, 2)) + (values[:40] - v).abs().mean((1, 2))
    assert error[chosen].max() < error[chosen + 1].min()
    assert error[chosen].mean() < 0.35
    assert torch.equal(keys[40:], nothing)


def test_rows_of_the_pool_come_back() -> None:
    cache = made(blocks=4, high_share=0.5)
    pool, k = cache.shared.pool, torch.randn(40, 2, 16)
    rows = len(pool.rows)
    assert rows == 4 * 8
    cache.write(step_of(40, 40), k, k)  # more than the pool has
    assert pool.refused == 40 - rows
    assert pool.take(1) == []
    cache.release(0)
    cache.write(step_of(20, 20), k[:20], k[:20])
    cache.write(step_of(4, 24), k[:4], k[:4])
    cache.write(step_of(4, 24), k[:4], k[:4])  # the four were drafts, and wrong
    taken = set(pool.take(rows))
    assert len(taken) == rows - 24
    held = cache.tensors["rows"].flatten()[:24]
    assert len(set(held.tolist()) | taken) == rows


def test_only_important_tokens_of_a_prompt_attend() -> None:
    torch.manual_seed(3)
    cache, step = made(), step_of(20, 20)
    q, k, v = torch.randn(20, 4, 16), torch.randn(20, 2, 16), torch.randn(20, 2, 16)
    chosen = torch.tensor([1, 4, 5, 11, 19])
    op = cache.ops(step)[1]
    assert isinstance(op, ZipAttention)
    out = zip_attention(op, q, cache, step, k, v, [chosen])
    want = zip_attention(op, q[chosen], cache, step_of(5, 5), k[chosen], v[chosen], [None])
    assert torch.allclose(out[chosen], want)
    others = torch.ones(20, dtype=torch.bool)
    others[chosen] = False
    assert not out[others].any()


def test_a_prompt_computes_less_and_a_cache_is_smaller() -> None:
    use = {"name": "zipvl", "params": {"probes": 4, "tau": 0.5}}
    engine, plain = tiny_engine(techniques=[use]), tiny_engine()
    prompt = [[(7 * i) % 150 + 3 for i in range(60)]]
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    for each in (engine, plain):
        each.reset_totals()
        each.generate(prompt, params)
    active = engine.actives[0]
    assert active.counters["tokens_important"] < active.counters["tokens_probed"]
    assert engine.device.totals["attention"].flop < plain.device.totals["attention"].flop
    assert engine.memory.block_bytes < plain.memory.block_bytes / 3


@pytest.mark.parametrize("params", [{"tau": 1.0}, {"probes": 0}, {"high_share": 0.0}])
def test_mistakes_are_told(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        ZipVL.from_params(params)
