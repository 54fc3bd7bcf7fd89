"""Speculation with a second model: outputs stay, guesses of all requests come from one pass, and a modelled
device is charged for the passes that a real one computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.techniques.decoding.test_copyspec import REPEATING, REPETITIVE
from tests.test_invariants import TimedModel, prompts
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.engine.build import build_engine
from twofold.engine.draft_kit import outer_layers
from twofold.engine.engine import Engine
from twofold.engine.memory import DoesNotFitError
from twofold.engine.model_drafter import ModelDrafter, acceptance_rate, mean_accepted
from twofold.engine.request import SamplingParams
from twofold.jobs.result import measured_behaviour
from twofold.techniques.registry import make_technique


def drafting(draft: str = "self:2", **params: Any) -> dict[str, Any]:
    use = {"name": "two-model-speculation", "params": {"draft": draft, **params}}
    return {"techniques": (use,)}


def drafter_of(engine: Engine) -> ModelDrafter:
    found = engine.drafter or engine.runner.drafts
    assert isinstance(found, ModelDrafter)
    return found


def same_model(family: str = "llama") -> str:
    """A second copy of the target, as a draft model of its own."""
    return str(Path(tiny_checkpoint(family).path))


GREEDY = SamplingParams(max_tokens=40, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0.9, top_p=0.95, seed=7)
PENALISED = SamplingParams(max_tokens=40, ignore_eos=True, repetition_penalty=1.3, frequency_penalty=0.3)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral"])
def test_output_stays(family: str, params: SamplingParams) -> None:
    expected = tiny_engine(family).generate(REPETITIVE, params)
    engine = tiny_engine(family, **drafting())
    assert [c.token_ids for c in engine.generate(REPETITIVE, params)] == [c.token_ids for c in expected]
    assert drafter_of(engine).counters["drafted"] > 0
    assert not drafter_of(engine).models[0].sequences


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "sampled", "penalised"])
def test_a_draft_model_that_equals_the_target_is_always_right(params: SamplingParams) -> None:
    """Which also says that its cache is: one wrong or missing entry would make it guess otherwise. Under
    sampling, both draw with the same random numbers."""
    asked = prompts(5, seed=3) + REPETITIVE
    plain = tiny_engine()
    expected = plain.generate(asked, params)
    engine = tiny_engine(**drafting(same_model(), gamma=3))
    assert [c.token_ids for c in engine.generate(asked, params)] == [c.token_ids for c in expected]
    assert engine.totals.accepted == engine.totals.drafted > 0
    assert engine.totals.decodes < 0.4 * plain.totals.decodes
    assert measured_behaviour(engine.accounts())["acceptance_rate"] == pytest.approx(1.0, abs=1e-6)


def test_rejected_guesses_leave_no_trace_in_the_draft_models_cache() -> None:
    """Stop tokens, wrong guesses and rollbacks: afterwards the copy of the target is still always right."""
    engine = tiny_engine(**drafting(same_model(), gamma=4))
    drafter = drafter_of(engine)
    made = drafter.models[0].run

    def spoilt(feeds: Any, through: Any = None) -> Any:
        chosen = made(feeds, through)
        if drafter.counters["proposals"] % 3 == 1:
            chosen = [[(token + 1) % 150 for token in tokens] for tokens in chosen]
        return chosen

    drafter.models[0].run = spoilt  # type: ignore[method-assign]
    expected = tiny_engine().generate(REPETITIVE, GREEDY)
    assert [c.token_ids for c in engine.generate(REPETITIVE, GREEDY)] == [c.token_ids for c in expected]
    assert 0 < engine.totals.accepted < engine.totals.drafted
    drafter.models[0].run = made  # type: ignore[method-assign]
    engine.reset_totals()
    engine.generate(REPETITIVE, GREEDY)
    assert engine.totals.accepted == engine.totals.drafted > 0


def test_scarce_memory_changes_no_output() -> None:
    limits = {"cache_blocks": 12, "max_num_seqs": 4, "max_num_batched_tokens": 32, "max_context": 180}
    expected = tiny_engine(REPEATING).generate(REPETITIVE, GREEDY)
    engine = tiny_engine(REPEATING, engine=limits, **drafting())
    got = engine.generate(REPETITIVE, GREEDY)
    assert [c.token_ids for c in got] == [c.token_ids for c in expected]
    assert engine.scheduler.num_preempted > 0
    assert drafter_of(engine).counters["drafted"] > 0


def test_passes_take_all_requests_at_once() -> None:
    engine = tiny_engine(engine={"max_num_seqs": 8, "max_num_batched_tokens": 512}, **drafting(gamma=4))
    engine.generate([[5 + i, 6, 7, 8] for i in range(8)], SamplingParams(max_tokens=6, ignore_eos=True))
    counters = drafter_of(engine).counters
    assert counters["passes"] <= 4 * engine.totals.steps
    assert counters["proposals"] > 8


@pytest.mark.parametrize("limit", [16, 512])
def test_a_modelled_device_is_charged_for_the_passes_of_a_real_one(limit: int) -> None:
    """With every guess right, lengths are the same on both."""
    limits = {"max_num_seqs": 3, "max_num_batched_tokens": limit, "max_context": 256, "prefix_caching": False}
    plan = tiny_plan(
        engine=limits, precision="fp32", behaviour={"acceptance_rate": 1.0}, **drafting(same_model(), gamma=3)
    )
    asked = prompts(5, seed=9)
    params = SamplingParams(max_tokens=11, ignore_eos=True)
    checkpoint = tiny_checkpoint()
    real = tiny_engine(engine=limits, precision="fp32", **drafting(same_model(), gamma=3))
    real.play([(0.0, p, params) for p in asked], concurrency=3)
    modelled = build_engine(plan, TimedModel(), checkpoint.spec, checkpoint)
    modelled.play([(0.0, len(p), params) for p in asked], concurrency=3)
    assert drafter_of(modelled).counters == drafter_of(real).counters
    work = [
        {kind: (t.calls, t.flop) for kind, t in engine.device.totals.items() if t.flop}
        for engine in (real, modelled)
    ]
    assert work[0] == work[1]
    modelled.check_techniques()


def test_what_the_drafter_holds_is_counted() -> None:
    engine = tiny_engine(**drafting(same_model()))
    (model,) = drafter_of(engine).models
    assert engine.memory.drafter == model.model.allocated() + model.allocated
    assert engine.memory.total == sum(
        getattr(engine.memory, part) for part in ("weights", "cache", "activations", "drafter")
    )
    shared = tiny_engine(**drafting("self:2"))
    assert shared.memory.drafter == drafter_of(shared).models[0].allocated
    with pytest.raises(DoesNotFitError, match="drafter"):
        tiny_engine(engine={"memory": engine.memory.total - engine.memory.drafter}, **drafting(same_model()))


def test_acceptance_rate_is_what_gives_the_mean() -> None:
    for length in (1, 4, 7):
        for rate in (0.0, 0.3, 0.8, 1.0):
            mean = mean_accepted(rate, length)
            assert mean == pytest.approx(sum(rate**i for i in range(1, length + 1)))
            assert acceptance_rate(mean, length) == pytest.approx(rate, abs=1e-6)


def test_parts_of_a_model_lack_its_middle() -> None:
    assert outer_layers(4, 10) == [0, 1, 8, 9]
    assert outer_layers(5, 10) == [0, 1, 2, 8, 9]
    assert outer_layers(1, 10) == [0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gamma": 0}, "gamma"),
        ({"gamma": "two"}, "gamma"),
        ({"draft": ""}, "draft"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_technique("two-model-speculation", params)


def test_draft_models_that_cannot_draft_are_refused() -> None:
    with pytest.raises(ValueError, match="3 layers draft, 1 … 2"):
        tiny_engine(**drafting("self:3"))
    with pytest.raises(ValueError, match="unknown model 'smollm'"):
        tiny_engine(**drafting("smollm"))
    plan = tiny_plan(**drafting("llama-2-7b"))
    with pytest.raises(ValueError, match="vocabularies of 160 and 32000 tokens"):
        build_engine(plan, TimedModel(), tiny_checkpoint().spec)
