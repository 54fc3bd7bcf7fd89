"""The estimate against the full simulation of the engine."""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest

from twofold.explore.deployment import Deployed
from twofold.explore.estimate import SteadyState
from twofold.explore.load import Estimate, Shape
from twofold.explore.space import Setting
from twofold.jobs.predict import predict_plan
from twofold.models.catalog import get_spec
from twofold.plan import Plan
from twofold.report.schema import Result

CLOSED = {"prompt": 1024, "output": 128, "requests": 128, "concurrency": 32}
OPEN = {"prompt": 1024, "output": 128, "requests": 300, "rate": 5.0}
CASES: list[dict[str, Any]] = [
    {"workload": CLOSED},
    {"workload": {**CLOSED, "concurrency": 1, "requests": 4}},
    {"workload": {**CLOSED, "concurrency": 256, "requests": 1024}, "engine": {"max_num_seqs": 64}},
    {"workload": {**CLOSED, "concurrency": 256, "requests": 1024}, "engine": {"max_num_seqs": 256}},
    {"workload": {**CLOSED, "prompt": 4096}, "engine": {"max_num_batched_tokens": 512}},
    {"workload": CLOSED, "engine": {"policy": "prefill-first"}},
    {"workload": CLOSED, "techniques": ["kivi:bits=2"]},
    {"workload": CLOSED, "techniques": ["sarathi:chunk=512"]},
    {"workload": CLOSED, "techniques": ["copyspec"]},
    {"workload": CLOSED, "techniques": ["llm-drop"]},
    {"workload": {**CLOSED, "concurrency": 64, "requests": 256}, "parallel": {"dp": 4}},
    {"workload": CLOSED, "parallel": {"tp": 2}},
    {"workload": CLOSED, "parallel": {"pp": 2}},
    {"workload": {**OPEN, "rate": 0.5}},
    {"workload": OPEN},
    {"workload": {**OPEN, "rate": 10.0}},
    {"workload": {**OPEN, "prompt": 2048, "rate": 4.0}, "techniques": ["int-vs-fp:format=mxfp4"]},
    {"workload": {**OPEN, "prompt": 2048, "rate": 4.0}, "techniques": ["gemfilter:keep=512"]},
]


def _both(case: dict[str, Any]) -> tuple[Estimate, Result]:
    plan, spec = Plan.from_dict({"model": "llama-3.1-8b", **case}), get_spec("llama-3.1-8b")
    load, engine = plan.workload, plan.engine
    setting = Setting(engine.max_num_seqs, engine.max_num_batched_tokens, load.concurrency, load.rate)
    deployed = Deployed(plan, "h100-sxm", spec, None)
    memory, limits = deployed.planned(setting)
    shape = Shape(load.prompt, load.output, load.requests)
    estimate = SteadyState(deployed, setting, memory, limits, shape).estimate(("p50", "p90"))
    return estimate, predict_plan(plan, "h100-sxm", spec=spec)


def test_the_estimate_is_near_the_simulation() -> None:
    """Medians over the cases: throughput and energy within 5 %, TPOT and the whole request within 5 %, TTFT
    within 15 %; each case within 15, 25 and 50 %."""
    errors: dict[str, list[float]] = {}
    for case in CASES:
        estimate, result = _both(case)
        assert estimate.keeps_up
        for name, ours, theirs in (
            ("tokens_per_s", estimate.tokens_per_s, result.tokens_per_s),
            ("joules", estimate.joules, result.energy_per_token),
            ("tpot", estimate.tpot["mean"], result.tpot),
            ("e2e", estimate.e2e, result.e2e),
            ("ttft", estimate.ttft["mean"], result.ttft),
            ("tpot_p90", estimate.tpot["p90"], result.percentiles["tpot"]["p90"]),
            ("ttft_p90", estimate.ttft["p90"], result.percentiles["ttft"]["p90"]),
        ):
            assert theirs is not None
            errors.setdefault(name, []).append(abs(ours / theirs.mid - 1))
    typical = {name: median(found) for name, found in errors.items()}
    worst = {name: max(found) for name, found in errors.items()}
    assert max(typical[name] for name in ("tokens_per_s", "joules", "tpot", "tpot_p90", "e2e")) < 0.05, (
        typical
    )
    assert max(typical["ttft"], typical["ttft_p90"]) < 0.15, typical
    assert max(worst["tokens_per_s"], worst["joules"], worst["e2e"]) < 0.15, worst
    assert max(worst["tpot"], worst["tpot_p90"]) < 0.25, worst
    assert max(worst["ttft"], worst["ttft_p90"]) < 0.5, worst


def test_memory_is_counted_as_the_engine_does() -> None:
    for case in CASES[:2]:
        estimate, result = _both(case)
        assert result.memory.capacity is not None
        assert result.memory.total.mid <= estimate.memory <= result.memory.capacity.mid


def test_more_than_can_be_served_is_said() -> None:
    plan = Plan.from_dict({"model": "llama-3.1-8b", "workload": {**OPEN, "rate": 200.0}})
    deployed = Deployed(plan, "h100-sxm", get_spec("llama-3.1-8b"), None)
    setting = Setting(rate=200.0)
    memory, limits = deployed.planned(setting)
    estimate = SteadyState(deployed, setting, memory, limits, Shape(1024, 128, 300)).estimate(("p90",))
    assert not estimate.keeps_up
    assert estimate.tokens_per_s < 200 * 128
    assert estimate.ttft["p90"] > 10 * estimate.tpot["p90"]


def test_limits_that_contradict_each_other_are_refused() -> None:
    plan = Plan.from_dict({"model": "llama-3.1-8b", "workload": CLOSED})
    deployed = Deployed(plan, "h100-sxm", get_spec("llama-3.1-8b"), None)
    with pytest.raises(ValueError, match="below max_num_seqs"):
        deployed.planned(Setting(max_num_seqs=256, max_num_batched_tokens=128, concurrency=1))
