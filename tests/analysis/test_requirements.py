"""What use cases require, and which devices meet it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from twofold.analysis.requirements import require
from twofold.analysis.suitability import Finder
from twofold.analysis.times import decode_seconds, prefill_seconds
from twofold.analysis.use_cases import UseCase, get_use_case, use_cases
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.plan import Plan

CASE = UseCase("test", "Test", 2000, 200, 2, ttft=0.5, tpot=0.05)
MODEL = "llama-3.1-8b"


def test_use_cases_have_sources_and_objectives() -> None:
    assert {"chat", "rag", "summarization", "translation", "code"} <= use_cases().keys()
    assert all(case.sources and 0 < case.tpot < case.ttft for case in use_cases().values())
    chat = get_use_case("Chat")
    assert (chat.prompt, chat.output, chat.beams, chat.ttft) == (2048, 128, 2, pytest.approx(0.3))
    changed = chat.with_changes(prompt=100, ttft=None)
    assert (changed.prompt, changed.ttft, changed.sources[-1]) == (100, chat.ttft, "the user")
    assert chat.with_changes(prompt=None) is chat


def test_wrong_use_cases_say_so() -> None:
    with pytest.raises(ValueError, match="did you mean 'chat'"):
        get_use_case("chatt")
    with pytest.raises(ValueError, match="tpot must be positive"):
        get_use_case("chat").with_changes(tpot=0.0)
    with pytest.raises(ValueError, match="prompt must be a positive integer"):
        get_use_case("chat").with_changes(prompt=0)


def test_requirements_follow_from_counts() -> None:
    spec = get_spec(MODEL)
    need = require(Plan(model=MODEL), CASE, 1, spec)
    products = 2 * CASE.prompt * (spec.num_parameters() - 2 * spec.vocab_size * spec.hidden)
    assert need.prefill.work.matrix_flop == pytest.approx(products, rel=0.05)
    assert need.flop_rate == need.prefill.work.matrix_flop / CASE.ttft
    weights = 2 * (spec.num_parameters() - spec.vocab_size * spec.hidden)
    read = 2 * spec.kv_elements_per_token * spec.num_layers * CASE.beams * (CASE.prompt + CASE.output)
    assert need.decode.work.streamed == pytest.approx(weights + read, rel=0.01)
    assert need.bandwidth == max(need.decode.bandwidth, need.prefill.bandwidth)
    assert need.message_seconds is None
    # 125 blocks of the prompt are shared, 13 are each beam's own.
    assert need.held.cache == (125 + 2 * 13) * 16 * 2 * spec.kv_elements_per_token * spec.num_layers
    assert need.held.weights == pytest.approx(2 * spec.num_parameters(), rel=1e-3)


def test_tighter_objectives_and_more_requests_require_more() -> None:
    spec = get_spec(MODEL)
    base = require(Plan(model=MODEL), CASE, 1, spec)
    tight = require(Plan(model=MODEL), replace(CASE, ttft=0.25, tpot=0.025), 1, spec)
    assert tight.flop_rate == pytest.approx(2 * base.flop_rate)
    assert tight.bandwidth == pytest.approx(2 * base.bandwidth)
    many = require(Plan(model=MODEL), CASE, 4, spec)
    assert many.prefill.work.matrix_flop == pytest.approx(4 * base.prefill.work.matrix_flop)
    assert many.held.cache == 4 * base.held.cache
    packed = require(
        Plan.from_dict({"model": MODEL, "techniques": ["int-vs-fp:format=mxint8"]}), CASE, 1, spec
    )
    assert packed.held.weights < 0.65 * base.held.weights
    narrow = require(Plan.from_dict({"model": MODEL, "engine": {"weights": "fp8"}}), CASE, 1, spec)
    assert (base.precisions, narrow.precisions) == (["bf16"], ["fp8", "bf16"])
    assert narrow.decode.work.moved["weights"] < 0.6 * base.decode.work.moved["weights"]


def test_what_cannot_be_counted_says_why() -> None:
    spec = get_spec(MODEL)
    with pytest.raises(ValueError, match="changes how many steps"):
        require(Plan.from_dict({"model": MODEL, "techniques": ["copyspec"]}), CASE, 1, spec)
    with pytest.raises(ValueError, match="needs a context of 4,200"):
        require(Plan(model="llama-2-7b"), replace(CASE, prompt=4000), 1, replace(spec, max_context=4096))
    with pytest.raises(ValueError, match="batch must be at least 1"):
        require(Plan(model=MODEL), CASE, 0, spec)


def test_devices_that_suffice_are_found_and_predicted() -> None:
    finder = Finder(Plan(model=MODEL), CASE, 1, get_spec(MODEL))
    found = finder.suit("h100-sxm")
    trial = found.enough(CASE)
    assert trial is not None
    assert trial.count == 1
    assert trial.ttft is not None
    assert trial.ttft.low < trial.ttft.mid <= CASE.ttft
    assert not trial.short(CASE)
    # A load is what is required over what the datasheet says.
    need = finder.requirement(1)
    assert trial.loads["compute"] == pytest.approx(need.flop_rate / 989.4e12)
    assert trial.loads["bandwidth"] == pytest.approx(need.bandwidth / 3352e9)
    predictor = StepPredictor(
        Plan.from_dict(
            {"model": MODEL, "workload": {"prompt": 2000, "output": 200}, "engine": {"max_num_seqs": 2}}
        ),
        "h100-sxm",
    )
    assert trial.tpot is not None
    assert trial.tpot.mid == pytest.approx(decode_seconds(predictor, 2200, 2), rel=1e-6)


def test_a_time_whose_interval_reaches_beyond_the_objective_is_doubtful() -> None:
    finder = Finder(Plan(model=MODEL), CASE, 1, get_spec(MODEL))
    trial = finder.suit("h100-sxm").trials[0]
    assert trial.ttft is not None
    at_its_middle = replace(CASE, ttft=trial.ttft.mid)
    assert trial.meets(at_its_middle)
    assert trial.doubtful(at_its_middle) == ["TTFT"]
    assert trial.doubtful(replace(CASE, ttft=trial.ttft.high)) == []
    assert trial.short(replace(CASE, ttft=trial.ttft.mid / 2)) == {"TTFT": pytest.approx(2)}


def test_what_falls_short_is_named() -> None:
    finder = Finder(Plan(model="llama-3.1-70b"), CASE, 1, get_spec("llama-3.1-70b"))
    phone = finder.suit("snapdragon-8-gen-3")
    assert phone.enough(CASE) is None
    assert {"memory", "compute", "bandwidth"} <= phone.closest(CASE).short(CASE).keys()
    assert phone.trials[1].refused
    h100 = finder.suit("h100-sxm")
    enough = h100.enough(CASE)
    assert enough is not None
    assert enough.count == h100.trials[-1].count > 1
    assert h100.trials[0].tpot is None  # ruled out by memory: no need to predict
    assert h100.first("memory") == next(t.count for t in h100.trials if t.loads["memory"] <= 1)
    with pytest.raises(ValueError, match="has no peaks to compare with"):
        finder.suit("pim-gpt")


def test_a_given_parallelism_is_the_only_one_tried() -> None:
    plan = Plan.from_dict({"model": MODEL, "parallel": {"tp": 2, "pp": 2}})
    found = Finder(plan, CASE, 1, get_spec(MODEL)).suit("h100-sxm")
    assert [trial.count for trial in found.trials] == [4]
    assert found.trials[0].loads["latency"] > 0


def test_prompts_are_cut_into_chunks() -> None:
    plan = Plan.from_dict({"model": MODEL, "workload": {"prompt": 16, "output": 16}})
    predictor = StepPredictor(plan, "h100-sxm")
    assert predictor.limits.max_num_batched_tokens == 2048
    one = prefill_seconds(predictor, 1024)
    assert prefill_seconds(predictor, 1024, 2) < 2 * one  # both in one step
    assert prefill_seconds(predictor, 1024, 4) == pytest.approx(2 * prefill_seconds(predictor, 1024, 2))
    long = prefill_seconds(predictor, 5000)
    assert long > 2.2 * prefill_seconds(predictor, 2048)
    assert prefill_seconds(predictor, 5000, 3) == pytest.approx(3 * long)
