"""ALISA: which tokens are chosen, where they lie in each phase, what comes back, what is counted."""

from __future__ import annotations

from collections.abc import Sequence
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
    make_heads,
    make_step,
)
from tests.test_invariants import TimedModel
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.claims.setups import alisa as setup
from twofold.devices.registry import make_device
from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models.cache import CacheSize
from twofold.models.catalog import get_spec
from twofold.models.context import Context
from twofold.models.dense_cache import DenseCache
from twofold.models.spec import ModelSpec
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.cache.alisa import Alisa
from twofold.techniques.cache.alisa_cache import AlisaCache
from twofold.techniques.cache.alisa_schedule import Schedule

HEADS, HIDDEN = 4, 32
SMALL: dict[str, Any] = {"p1": 16, "p2": 40, "beta": 0.25, "kv_bits": 16, "local_steps": 8}


class Layer:
    """A sublayer whose keys and values are products of its inputs, whatever the position."""

    spec: Any

    def __init__(self) -> None:
        self.spec = type("Spec", (), {"hidden": HIDDEN})()
        generator = torch.Generator().manual_seed(5)
        self.weight = torch.randn(HIDDEN, 2 * KV_HEADS * DIM, generator=generator) / HIDDEN**0.5

    def project(self, x: torch.Tensor | None, ctx: Context) -> tuple[Any, Any, Any]:
        assert x is not None
        assert ctx.step.num_tokens == len(x) == len(ctx.step.positions)  # type: ignore[arg-type]
        k, v = (x @ self.weight).view(len(x), 2, KV_HEADS, DIM).unbind(1)
        return None, k, v


def make_cache(drafts: int = 0, **changes: Any) -> AlisaCache:
    scheme = Alisa(**{**SMALL, **changes}).cache_scheme()
    cache = scheme.cache_layer(make_heads(), BLOCK, 0)
    assert isinstance(cache, AlisaCache)
    cache.max_drafts = drafts
    cache.projection = Layer()  # type: ignore[assignment]
    cache.allocate(CacheSize(40, BLOCK, MAX_SEQS), torch.device("cpu"))
    return cache


class Text:
    """Inputs, keys, values and queries of a sequence, fed to a cache step by step."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, HIDDEN, generator=generator)
        self.q = 2 * torch.randn(count, HEADS, DIM, generator=generator)
        self.k, self.v = (self.x @ Layer().weight).view(count, 2, KV_HEADS, DIM).unbind(1)

    def feed(self, cache: AlisaCache, start: int, end: int, row: int = 0) -> torch.Tensor:
        """What the queries of tokens start … end - 1 see."""
        step = make_step([Part(row, range(30), start, end)])
        device, part = TorchDevice("cpu"), slice(start, end)
        out = cache.attend(device, step, self.q[part], self.k[part], self.v[part], self.x[part])
        assert out is not None
        return out


def plainly(
    text: Text, cuts: Sequence[int], ratio: float, steps: int
) -> tuple[list[torch.Tensor], list[set[int]]]:
    """Algorithm 1 of the source as plainly as it can be stated, token by token behind a first part that sees
    everything: outputs, and the tokens that each step attends to."""
    group = HEADS // KV_HEADS
    rows: dict[int, list[float]] = {}
    outs, picks = [], []
    start = 0
    for end in cuts:
        seen: list[int] = list(range(start))
        if start:
            k = max(1, int(end * ratio / 2 + 0.5))
            local = list(range(max(0, start - k), start))
            others = list(range(start - len(local)))
            depth = min(len(local), steps)
            sums = [
                sum(rows[t][j] if j < len(rows[t]) else 0.0 for t in range(start - depth, start))
                for j in others
            ]
            others.sort(key=lambda j: -sums[j])
            seen = sorted(others[:k]) + local
        picks.append(set(seen))
        out = []
        for t in range(start, end):
            own = [*seen, *range(start, t + 1)]
            total = torch.zeros(t + 1)
            parts = []
            for head in range(HEADS):
                scores = torch.stack([text.q[t, head] @ text.k[j, head // group] for j in own]) * DIM**-0.5
                weights = scores.softmax(0)
                total[own] += weights
                parts.append(sum(w * text.v[j, head // group] for w, j in zip(weights, own, strict=True)))
            rows[t] = total.tolist()
            out.append(torch.cat(parts))  # type: ignore[arg-type]
        outs.append(torch.stack(out))
        start = end
    return outs, picks


@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_sparse_window_attention_equals_a_plain_reference_in_all_phases(beta: float) -> None:
    text, cache = Text(70), make_cache(beta=beta, caching_ratio=0.3)
    chosen: list[set[int]] = []
    choose = cache._choose

    def noted(*args: Any) -> Any:
        picks = choose(*args)
        assert picks is not None
        chosen.append(set(picks[0].tolist()))
        return picks

    cache._choose = noted  # type: ignore[method-assign]
    cuts = [20, *range(21, 71)]
    expected, picks = plainly(text, cuts, 0.3, 8)
    start = 0
    for end, theirs in zip(cuts, expected, strict=True):
        assert torch.allclose(text.feed(cache, start, end), theirs, atol=1e-4)
        start = end
    assert chosen == picks
    counters = cache.schedule.counters
    assert counters["phase_2"] == 20
    assert counters["phase_3"] == 30
    assert counters["tokens_fetched"] > 0
    assert (counters["tokens_recomputed"] > 0) == (beta > 0)
    # What was left out for a step is chosen again later: tokens are skipped, not dropped.
    back = [j for i, before in enumerate(picks) for j in picks[min(i + 1, 50)] - before if j < i + 10]
    assert back


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 20), st.sampled_from([0.0, 0.5]))
def test_parts_of_a_prompt_see_everything_wherever_it_lies(cuts: list[int], p1: int, beta: float) -> None:
    cuts = [max(33, cut) for cut in cuts[:3]]
    text, cache = Text(sum(cuts)), make_cache(p1=p1, p2=41, beta=beta)
    start = 0
    for cut in cuts:
        end = start + cut
        full = DenseCache(make_heads(), BLOCK)
        full.allocate(CacheSize(40, BLOCK, MAX_SEQS), torch.device("cpu"))
        step = make_step([Part(0, range(30), 0, end)])
        expected = full.attend(TorchDevice("cpu"), step, text.q[:end], text.k[:end], text.v[:end])
        assert expected is not None
        assert torch.allclose(text.feed(cache, start, end), expected[start:], atol=1e-4)
        start = end


def test_voided_drafts_leave_nothing_behind() -> None:
    """What the true tokens see does not depend on which drafts came with them, or before."""
    text, outs = Text(60), []
    for seed in (7, 8):
        drafts, cache = Text(60, seed), make_cache(drafts=3)
        seen = [text.feed(cache, 0, 20)]
        for end in range(21, 57):
            part = Text(0)
            for name in ("x", "q", "k", "v"):
                mine, wrong = getattr(text, name), getattr(drafts, name)
                setattr(part, name, torch.cat((mine[:end], wrong[end:])))
            seen.append(part.feed(cache, end - 1, end + 3)[:1])
        outs.append(torch.cat(seen))
    assert torch.equal(outs[0], outs[1])


def test_two_sequences_do_not_mix() -> None:
    one, two = Text(60), Text(70, seed=1)
    alone, both = make_cache(), make_cache()
    expected = [one.feed(alone, 0, 30), *(one.feed(alone, i, i + 1) for i in range(30, 50))]
    got = [one.feed(both, 0, 30)]
    step = make_step([Part(1, range(30, 40), 0, 45)])
    both.attend(TorchDevice("cpu"), step, two.q[:45], two.k[:45], two.v[:45], two.x[:45])
    for i in range(30, 50):
        got.append(one.feed(both, i, i + 1))
        step = make_step([Part(1, range(30, 40), i + 15, i + 16)])
        j = slice(i + 15, i + 16)
        both.attend(TorchDevice("cpu"), step, two.q[j], two.k[j], two.v[j], two.x[j])
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


# --- where tokens lie


def test_phases_come_in_order() -> None:
    schedule = Schedule(0.2, 16, 40, 10, 8)
    phases = [schedule.phase(n) for n in range(1, 80)]
    assert phases == sorted(phases)
    assert [phases.count(p) for p in (1, 2, 3)] == [16, 23, 40]
    assert [schedule.hosted(n) for n in (16, 17, 39, 40)] == [0, 1, 23, 24]
    assert [schedule.gone(n) for n in (39, 40, 60)] == [0, 10, 10]
    assert schedule.split(Span(1, 50)) == (5, 5)
    assert schedule.split(Span(33, 50)) == (17, 0)  # a prompt's
    # Ten of fifty: forty-four before the local five, thirty-three of them away, ten of these deleted.
    assert schedule.expected(Span(1, 50)).fetched == 3
    assert schedule.expected(Span(1, 50)).recomputed == 1


@pytest.mark.parametrize("kv_bits", [8, 16])
def test_bytes_by_memory(kv_bits: int) -> None:
    text, cache = Text(60), make_cache(kv_bits=kv_bits)
    entry = KV_HEADS * 2 * DIM * 4 if kv_bits == 16 else KV_HEADS * 2 * (DIM + 4)
    inputs = HIDDEN * 4 if kv_bits == 16 else HIDDEN + HIDDEN // DIM * 4
    assert cache.sequence_bytes() == 16 * entry + 10 * inputs
    assert cache.block_bytes() == BLOCK * 8 * 2
    assert cache.allocated == MAX_SEQS * cache.sequence_bytes() + 40 * cache.block_bytes()
    text.feed(cache, 0, 38)
    doomed = sum(t.nbytes for t in cache.doomed[0].values())
    later = sum(t[0, 10:22].nbytes for t in cache.host.values())
    assert doomed + later == cache.host_bytes(38) == 22 * entry
    for i in range(38, 42):
        text.feed(cache, i, i + 1)
    assert not cache.doomed, "phase III frees what it deletes"
    assert cache.host_bytes(42) == (42 - 16 - 10) * entry


def test_eight_bits_are_close() -> None:
    text, exact, coarse = Text(60), make_cache(), make_cache(kv_bits=8)
    for start, end in [(0, 20), *((i, i + 1) for i in range(20, 60))]:
        ours, theirs = text.feed(coarse, start, end), text.feed(exact, start, end)
        if end <= 24:  # what is chosen later may differ
            assert 0 <= (ours - theirs).abs().max() < 0.05
    assert coarse.sequence_bytes() < 0.35 * exact.sequence_bytes()


def test_windowed_layers_keep_a_plain_cache() -> None:
    scheme = Alisa(**SMALL).cache_scheme()
    assert isinstance(scheme.cache_layer(make_heads(window=32), BLOCK, 0), DenseCache)


# --- in an engine


def test_tokens_computed_again_are_those_that_were_deleted() -> None:
    """A model's own layers make the same keys and values twice: deleting changes nothing but rounding."""
    ids = [(7 * i * i + 3 * i) % 150 + 3 for i in range(120)]
    kept, deleted = (
        tiny_engine(techniques=[{"name": "alisa", "params": {**SMALL, "beta": beta}}]) for beta in (0.0, 0.6)
    )
    assert torch.allclose(kept.score(ids, 60), deleted.score(ids, 60), atol=1e-3)
    assert deleted.actives[0].counters["tokens_recomputed"] > 0
    assert kept.actives[0].counters["tokens_recomputed"] == 0


@pytest.mark.parametrize("family", ["opt", "qwen3", "gemma3"])
def test_other_families(family: str) -> None:
    params = SamplingParams(max_tokens=24, ignore_eos=True)
    engine = tiny_engine(family, techniques=[{"name": "alisa", "params": {**SMALL, "kv_bits": 8}}])
    assert all(len(c.token_ids) == 24 for c in engine.generate([p * 2 for p in prompts(3, seed=3)], params))
    engine.check_techniques()
    assert engine.actives[0].counters["tokens_recomputed"] > 0


def test_tokens_are_counted_alike_where_nothing_is_computed() -> None:
    techniques = [{"name": "alisa", "params": SMALL}]
    real = tiny_engine(techniques=techniques)
    asked = [p * 2 for p in prompts(4, seed=3)]
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    real.play([(0.0, p, params) for p in asked])
    (active,) = real.actives
    spread = active.measured()
    assert 0 < spread["global_spread"] < 3
    modelled = build_engine(
        tiny_plan(techniques=techniques, precision="fp32", behaviour=spread),
        TimedModel(),
        tiny_checkpoint().spec,
    )
    modelled.play([(0.0, len(p), params) for p in asked])
    (predicted,) = modelled.actives
    layers = len(real.runner.caches)
    away = {"tokens_fetched", "tokens_recomputed"}
    for name in set(active.counters) - away:
        assert active.counters[name] == layers * predicted.counters[name]
    for counters, times in ((active.counters, 1), (predicted.counters, layers)):
        assert all(counters[name] > 0 for name in away)
        total = times * sum(counters[name] for name in away)
        assert total == pytest.approx(sum(active.counters[name] for name in away), rel=0.2)


def test_what_comes_from_the_host_is_charged_at_its_link() -> None:
    plan = Plan.from_dict(
        {
            "model": "opt-6.7b",
            "precision": "fp16",
            "techniques": [{"name": "alisa", "params": {"p1": 500, "p2": 900, "beta": 0.0}}],
            "workload": {"requests": 1, "prompt": 1000, "output": 11},
        }
    )
    engine = build_engine(plan, make_device("v100-32g-sxm2"), get_spec("opt-6.7b"))
    engine.play([(0.0, 1000, SamplingParams(max_tokens=11, ignore_eos=True))])
    counters = engine.actives[0].counters
    assert counters["phase_3"] == 10
    entry = 2 * (4096 + 32 * 4)
    copied = 32 * entry * (counters["tokens_fetched"] + counters["tokens_offloaded"])
    totals = engine.device.totals["copy"]
    assert totals.bytes_moved == 2 * copied
    assert totals.seconds == pytest.approx(copied / 15.8e9 + totals.calls * 2e-6, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caching_ratio": 1.0}, "between 0 and 1"),
        ({"p1": 0}, "p1 must be at least 1"),
        ({"p2": 16}, "use p2=32"),
        ({"beta": 0.7}, r"lie in \[0, 0.6\]"),
        ({"kv_bits": 4}, "8 or 16"),
        ({"local_steps": 0}, "at least 1"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Alisa(**{**SMALL, **changes})


def test_models_that_have_nothing_to_choose_from_are_refused() -> None:
    spec: ModelSpec = get_spec("deepseek-v3")
    with pytest.raises(ValueError, match="latent"):
        Alisa().check(spec)


def test_a_cache_that_another_technique_wants_elsewhere_is_refused() -> None:
    flexgen = {"name": "flexgen-offload", "params": {"weights_device": 1.0, "cache_device": 0.5}}
    with pytest.raises(ValueError, match="cache_device=1"):
        tiny_engine(techniques=[flexgen, {"name": "alisa", "params": SMALL}])


def test_claims_are_set_up_on_the_source_s_link() -> None:
    for claim in Alisa.claims:
        assert (claim.setup is None) == bool(claim.why_not)
        assert claim.setup is None or hasattr(setup, claim.setup)
    times = setup._times("opt-6.7b", "v100-32g-sxm2")
    assert times.alisa[times.best] < times.vllm < times.flexgen
    place = setup._Place("opt-6.7b", "v100-32g-sxm2")
    assert place.most(lambda p1: f"alisa:p1={p1},p2={p1 + 1},beta=0", 640) is not None
