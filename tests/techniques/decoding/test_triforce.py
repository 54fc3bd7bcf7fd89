"""TriForce: outputs stay, chunks are those that a slow search would choose, both caches keep their bounds,
and a modelled device is charged for the same passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.techniques.decoding.test_copyspec import REPETITIVE
from tests.test_invariants import TimedModel, prompts
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu.cache import NativeCache
from twofold.kernels.cpu.cache_formats import entry_format
from twofold.models.cache import CacheLayer, CacheSize, Heads
from twofold.models.dense_cache import DenseCache
from twofold.techniques.decoding.triforce import TriForceDrafter
from twofold.techniques.decoding.triforce_chunks import Retrieve, retrieve
from twofold.techniques.registry import make_technique

SMALL = {"draft": "self:2", "gamma": 4, "budget": 32, "draft_cache_budget": 64, "rebuild": 16}
LONG = [*REPETITIVE, *[(p * 4)[:100] for p in prompts(3, seed=4, longest=60)]]


def triforce(**params: Any) -> dict[str, Any]:
    return {"techniques": ({"name": "triforce", "params": {**SMALL, **params}},)}


def drafter_of(engine: Engine) -> TriForceDrafter:
    found = engine.drafter or engine.runner.drafts
    assert isinstance(found, TriForceDrafter)
    return found


GREEDY = SamplingParams(max_tokens=48, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=48, ignore_eos=True, temperature=0.8, seed=2)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral"])
def test_output_stays(family: str, params: SamplingParams) -> None:
    expected = tiny_engine(family).generate(LONG, params)
    engine = tiny_engine(family, **triforce())
    assert [c.token_ids for c in engine.generate(LONG, params)] == [c.token_ids for c in expected]
    counters = drafter_of(engine).counters
    assert counters["retrievals"] > len(LONG)  # chunks were chosen anew on the way
    assert 0 < counters["inner_accepted"] <= counters["inner_drafted"]
    assert 0 < counters["accepted"] <= counters["drafted"]


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_with_everything_retrieved_the_target_agrees_with_every_guess(params: SamplingParams) -> None:
    """Which also says that entries, their order of age and positions are right after every rollback."""
    plain = tiny_engine()
    expected = plain.generate(LONG, params)
    engine = tiny_engine(**triforce(budget=256, rebuild=64))
    assert [c.token_ids for c in engine.generate(LONG, params)] == [c.token_ids for c in expected]
    assert engine.totals.accepted == engine.totals.drafted > 0
    assert engine.totals.decodes < 0.4 * plain.totals.decodes
    measured = drafter_of(engine).measured(engine.totals)
    assert measured["acceptance_rate"] == pytest.approx(1.0, abs=1e-6)
    assert 0 < measured["inner_acceptance_rate"] < 1


def test_a_small_model_that_sees_all_and_equals_the_target_is_always_right() -> None:
    engine = tiny_engine(**triforce(draft=str(tiny_checkpoint().path), draft_cache_budget=220, budget=256))
    engine.generate(LONG, GREEDY)
    counters = drafter_of(engine).counters
    assert counters["inner_accepted"] == counters["inner_drafted"] > 0


def test_both_caches_keep_their_bounds() -> None:
    engine = tiny_engine(**triforce())
    drafter = drafter_of(engine)
    for prompt in LONG:
        engine.add(prompt, GREEDY)
    seen = 0
    while engine.has_work:
        engine.step()
        for model in (drafter.small, drafter.middle):
            for sequence in model.sequences.values():
                seen += 1
                assert sequence.slots <= model.most_slots
                assert len(sequence.table) <= model.sequence_blocks
    assert seen > 50
    assert all(not model.sequences for model in drafter.models)
    taken = [sorted(model._free) for model in drafter.models]
    assert taken == [list(range(m.num_blocks(engine.runner.size))) for m in drafter.models]
    assert engine.memory.drafter == sum(model.allocated for model in drafter.models)


def chosen_by_search(op: Retrieve, q: torch.Tensor, k: torch.Tensor) -> list[list[int]]:
    """Entries by KV head, the slow way."""
    scored, group = op.entries // op.chunk, op.heads // op.kv_heads
    out = []
    for head in range(op.kv_heads):
        scores = []
        for chunk in range(1, scored):
            mean = k[chunk * op.chunk : (chunk + 1) * op.chunk, head].mean(0)
            scores.append((float(sum(q[head * group + i] @ mean for i in range(group))), chunk))
        best = [0, *(chunk for _, chunk in sorted(scores, reverse=True))][: op.chunks]
        entries = [chunk * op.chunk + i for chunk in best for i in range(op.chunk)]
        out.append(entries + list(range(scored * op.chunk, op.entries)))
    return out


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("entries", "chunks"), [(61, 3), (64, 8), (7, 0)])
def test_chunks_are_those_that_a_search_chooses(native: bool, entries: int, chunks: int) -> None:
    torch.manual_seed(entries)
    heads = Heads(4, 2, 16, 16, 0.25, None, None, "fp32", 4)

    def cache() -> CacheLayer:
        made = NativeCache(heads, 16, entry_format("f32")) if native else DenseCache(heads, 16)
        made.allocate(CacheSize(8, 16, 1), torch.device("cpu"))
        return made

    source, target = cache(), cache()
    k, v, q = torch.randn(entries, 2, 16), torch.randn(entries, 2, 16), torch.randn(4, 16)
    slots = torch.randperm(128)[:entries]
    source.store(slots, k, v)
    op = Retrieve(entries, 8, chunks, 4, 2, 16, 0, 0, 0)
    places = torch.randperm(128)[: op.copied]
    retrieve(op, q, source, slots, target, places)
    got_k, got_v = target.load(places)
    for head, wanted in enumerate(chosen_by_search(op, q, k)):
        assert torch.equal(got_k[:, head], k[wanted, head])
        assert torch.equal(got_v[:, head], v[wanted, head])


def test_a_modelled_device_is_charged_for_the_passes_of_a_real_one() -> None:
    """With every guess right, lengths are the same on both."""
    uses = triforce(draft=str(tiny_checkpoint().path), draft_cache_budget=220, budget=256, rebuild=24)
    limits = {"max_num_seqs": 3, "max_num_batched_tokens": 64, "max_context": 256, "prefix_caching": False}
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    asked = prompts(5, seed=9)
    real = tiny_engine(engine=limits, precision="fp32", **uses)
    real.play([(0.0, p, params) for p in asked], concurrency=3)
    sure = {"acceptance_rate": 1.0, "inner_acceptance_rate": 1.0}
    plan = tiny_plan(engine=limits, precision="fp32", behaviour=sure, **uses)
    checkpoint = tiny_checkpoint()
    modelled = build_engine(plan, TimedModel(), checkpoint.spec, checkpoint)
    modelled.play([(0.0, len(p), params) for p in asked], concurrency=3)
    assert drafter_of(modelled).counters == drafter_of(real).counters
    # A first layer, which has nothing to add before its norm, is charged as the others: norms differ.
    work = [
        {kind: (t.calls, t.flop, t.bytes_moved) for kind, t in e.device.totals.items() if kind != "norm"}
        for e in (real, modelled)
    ]
    assert work[0] == work[1]


def test_rates_that_cannot_be_are_refused() -> None:
    plan = tiny_plan(behaviour={"inner_acceptance_rate": 1.5}, **triforce())
    with pytest.raises(ValueError, match="inner_acceptance_rate must lie in 0"):
        build_engine(plan, TimedModel(), tiny_checkpoint().spec)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 0}, "gamma"),
        ({"budget": 20}, "two chunks or more"),
        ({"budget": 8}, "two chunks or more"),
        ({"budget": 64, "rebuild": 65}, "rebuild=65 is more than budget=64"),
        ({"draft_cache_budget": 22}, "leaves no room"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("triforce", params)


def test_a_draft_model_that_is_too_short_for_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="too few for a window"):
        tiny_engine(engine={"max_context": 64, "max_num_seqs": 2}, **triforce())
