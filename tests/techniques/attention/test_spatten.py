"""SpAtten: what is pruned and read, against attention written out over what is left."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_checkpoint, tiny_engine

from twofold.devices.torch_device import TorchDevice
from twofold.engine.request import SamplingParams
from twofold.jobs.steps import StepPredictor
from twofold.models.cache import CacheSize, Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.plan import Plan
from twofold.techniques.attention.spatten import Spatten
from twofold.techniques.attention.spatten_cache import SpattenCache
from twofold.techniques.attention.spatten_cascade import _HEAD_STEPS, _TOKEN_STEPS, Cascade, left

HEADS = Heads(4, 2, 16, 16, 0.25, None, None, "fp32", 4)


def layers(count: int, cascade: Cascade) -> list[SpattenCache]:
    cascade.num_layers = count
    made = [SpattenCache(HEADS, 16, i, cascade) for i in range(count)]
    for each in made:
        each.first = made[0]
        each.allocate(CacheSize(8, 16, 2), torch.device("cpu"))
    return made


def step_of(queries: int, entries: int) -> StepInput:
    slots = torch.randperm(128, generator=torch.Generator().manual_seed(1))[:entries]
    return StepInput(
        [Span(queries, entries)],
        queries,
        0,
        torch.zeros(queries, dtype=torch.int64),
        slots=slots[entries - queries :],
        tables=[slots],
    )


def test_shares_are_those_of_the_source() -> None:
    tokens = [round(left(_TOKEN_STEPS, i / 24, 0.3), 3) for i in range(24)]
    assert tokens == [1.0] * 2 + [0.9] + [0.8] * 2 + [0.6] * 6 + [0.3] * 13
    heads = [16 * left(_HEAD_STEPS, i / 24, 0.625) for i in range(24)]
    assert heads == [16.0] * 16 + [13.0] * 6 + [10.0] * 2


def test_keys_have_two_halves() -> None:
    torch.manual_seed(0)
    cache, step = layers(1, Cascade(1.0, 1.0, 1.0, 0.0))[0], step_of(30, 30)
    k, v = torch.randn(30, 2, 16), torch.randn(30, 2, 16)
    cache.write(step, k, v)
    entries = torch.arange(30)
    scale = k.abs().amax(-1, keepdim=True) / 127
    assert ((cache.keys(step, 0, entries, whole=True) - k).abs() <= scale * 0.6 + 1e-3).all()
    assert ((cache.keys(step, 0, entries, whole=False) - k).abs() <= scale * 8.6 + 1e-3).all()
    assert (
        (cache.values(step, 0, entries) - v).abs() <= v.abs().amax(-1, keepdim=True) / 127 * 0.6 + 1e-3
    ).all()


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_attention_equals_that_over_what_is_left(threshold: float) -> None:
    """Threshold 0: the upper bits always do; 1: never."""
    torch.manual_seed(1)
    cascade = Cascade(0.4, 0.5, 0.3, threshold)
    made, device, entries = layers(12, cascade), TorchDevice("cpu"), 60
    for cache in made:
        cache.attend(device, step_of(59, 59), *(torch.randn(59, n, 16) for n in (4, 2, 2)))
    step = step_of(1, entries)
    importance = made[0].flat("importance")[step.tables[0]].clone()
    importance[-1] = 0.0
    alive, heads, outputs = list(range(entries)), list(range(4)), torch.zeros(4)
    for layer, cache in enumerate(made):
        q, k, v = (torch.randn(1, n, 16) for n in (4, 2, 2))
        got = cache.attend(device, step, q, k, v)
        assert got is not None
        what = cascade.left(cascade.parts(step.spans), layer, 2)
        count, num_heads = what.counts[0], cascade.num_heads(layer, 4)
        if count < len(alive):
            alive = sorted(
                sorted(alive, key=lambda e: -importance[e] if e < entries - 1 else -torch.inf)[:count]
            )
        if num_heads < len(heads):
            heads = sorted(sorted(heads, key=lambda h: -outputs[h])[:num_heads])
        at = torch.tensor(alive)
        keys, values = cache.keys(step, 0, at, whole=threshold == 1.0), cache.values(step, 0, at)
        want = torch.zeros(4, 16)
        for head in heads:
            weights = (keys[:, head // 2] @ q[0, head] * HEADS.scale).softmax(0)
            importance[at] += weights
            best = weights.topk(what.values[0]).indices
            want[head] = weights[best] @ values[best, head // 2]
            outputs[head] += want[head].abs().mean()
        assert torch.allclose(got.view(4, 16), want, atol=1e-5)
    assert len(alive) == 24
    assert len(heads) == 2
    assert cascade.counters["entries_pruned"] > 0
    assert cascade.counters["rows_refined"] == (cascade.counters["rows_scored"] if threshold else 0)


def test_what_a_prompt_gave_its_entries_is_counted() -> None:
    torch.manual_seed(2)
    cache, step = layers(1, Cascade(0.3, 0.6, 0.3, 0.1))[0], step_of(20, 20)
    q, k, v = (torch.randn(20, n, 16) for n in (4, 2, 2))
    cache.attend(TorchDevice("cpu"), step, q, k, v)
    keys, _ = cache.read(step, 0)
    want = torch.zeros(20)
    for query in range(20):
        for head in range(4):
            scores = keys[: query + 1, head // 2] @ q[query, head] * HEADS.scale
            want[: query + 1] += scores.softmax(0)
    assert torch.allclose(cache.flat("importance")[step.tables[0]], want, atol=1e-4)


def test_a_step_reads_and_computes_less() -> None:
    engine, plain = tiny_engine(techniques=[{"name": "spatten", "params": {}}]), tiny_engine()
    prompt = [[(7 * i) % 150 + 3 for i in range(60)]]
    for each in (engine, plain):
        each.generate(prompt, SamplingParams(max_tokens=1, ignore_eos=True))
        each.reset_totals()
        each.generate([prompt[0][:-1]], SamplingParams(max_tokens=40, ignore_eos=True))
    ours, theirs = (each.device.totals["attention"] for each in (engine, plain))
    assert ours.bytes_moved < theirs.bytes_moved / 2
    assert 0 <= engine.actives[0].cache.measured()["lsb_share"] <= 1  # type: ignore[union-attr]


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="tokens must lie"):
        Spatten(tokens=0.0)
    with pytest.raises(ValueError, match="threshold must lie"):
        Spatten(threshold=2.0)
    with pytest.raises(ValueError, match="whole context"):
        Spatten().check(tiny_checkpoint("gemma3").spec)


def test_layers_that_prune_alike_are_charged_together() -> None:
    """Seven depths of the source's workload differ; attention costs what it does layer by layer."""
    plan = Plan.from_dict({"model": "gpt2-medium", "device": "spatten", "techniques": ["spatten"]})
    steps, apart = StepPredictor(plan, "spatten"), StepPredictor(plan, "spatten")
    layers = [layer for stage in apart.engine.runner.model.stages for layer in stage]
    assert len(layers) == 24
    assert len({layer.signature for layer in layers}) == 7
    for layer in layers:
        layer.signature = layer.index
    spans = [Span(1, 900), Span(4, 301), Span(200, 200)]
    for each in (steps, apart):
        each.step(spans)
    together, one_by_one = (each.device.totals["attention"] for each in (steps, apart))
    assert together.calls == one_by_one.calls == 24 * 4
    assert together.seconds == pytest.approx(one_by_one.seconds)
    assert together.joules == pytest.approx(one_by_one.joules)
