"""Predictions: parallelism does what it must, plans that do not fit are refused with a way out, traces replay
fast."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from twofold.engine.memory import DoesNotFitError
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.report.schema import Result

LOAD = {"requests": 8, "prompt": 512, "output": 16, "concurrency": 4}


def predict(model: str = "llama-3.1-8b", device: str = "h100-sxm", **values: Any) -> Result:
    return predict_plan(Plan.from_dict({"model": model, "workload": LOAD, **values}), device)


def tpot(result: Result) -> float:
    assert result.tpot is not None
    return result.tpot.mid


def test_a_bandwidth_bound_step_takes_at_least_its_bytes() -> None:
    result = predict(workload={"requests": 1, "prompt": 16, "output": 8})
    assert tpot(result) > 16.06e9 / 3.352e12
    assert tpot(result) < 3 * 16.06e9 / 3.352e12


def test_tensor_parallelism_speeds_up_and_pays_for_its_links() -> None:
    one, two, eight = (predict(parallel={"tp": n}) for n in (1, 2, 8))
    assert tpot(one) > tpot(two) > tpot(eight)
    assert tpot(eight) > tpot(one) / 8
    assert two.memory.weights.mid < 0.6 * one.memory.weights.mid
    assert {"collective"} <= {share.kind for share in eight.breakdown}
    assert not any(share.kind == "collective" for share in one.breakdown)


def test_pipeline_holds_less_per_device_and_overlaps_batches() -> None:
    def load(n: int) -> dict[str, int]:
        return {"prompt": 64, "output": 32, "concurrency": 8 * n, "requests": 16 * n}

    one, cut = (predict("llama-2-70b", "mi300x", parallel={"pp": n}, workload=load(n)) for n in (1, 4))
    assert cut.memory.weights.mid < 0.3 * one.memory.weights.mid
    assert one.tokens_per_s is not None
    assert cut.tokens_per_s is not None
    assert cut.tokens_per_s.mid > 2 * one.tokens_per_s.mid, "four batches are in flight"
    alone = {**LOAD, "concurrency": 1}
    single = [predict("llama-2-70b", "mi300x", parallel={"pp": n}, workload=alone) for n in (1, 4)]
    assert tpot(single[1]) >= tpot(single[0]), "one token still passes through all layers"


def test_data_parallelism_doubles_throughput_not_speed() -> None:
    load = {"requests": 32, "prompt": 512, "output": 16, "concurrency": 8}
    one, two = (
        predict(workload={**load, "concurrency": 8 * n, "requests": 32 * n}, parallel={"dp": n})
        for n in (1, 2)
    )
    assert one.tokens_per_s is not None
    assert two.tokens_per_s is not None
    assert two.tokens_per_s.mid == pytest.approx(2 * one.tokens_per_s.mid, rel=0.05)
    assert tpot(two) == pytest.approx(tpot(one), rel=0.05)
    assert one.energy_per_token is not None
    assert two.energy_per_token is not None
    assert two.energy_per_token.mid == pytest.approx(one.energy_per_token.mid, rel=0.05)


def test_expert_parallelism_keeps_whole_experts() -> None:
    sliced = predict("mixtral-8x7b", parallel={"tp": 4})
    whole = predict("mixtral-8x7b", parallel={"tp": 4, "ep": 4})
    assert whole.memory.weights.mid == pytest.approx(sliced.memory.weights.mid, rel=0.02)
    spread = predict("mixtral-8x7b", parallel={"tp": 2, "dp": 2, "ep": 4})
    assert (
        spread.memory.weights.mid
        < 0.6 * predict("mixtral-8x7b", parallel={"tp": 2, "dp": 2}).memory.weights.mid
    )


def test_across_nodes_is_slower_than_within() -> None:
    within = predict("llama-3.1-405b", "h200-sxm", parallel={"tp": 8, "pp": 1})
    across = predict("llama-3.1-405b", "h200-sxm", parallel={"tp": 16, "pp": 1})
    assert across.parallel["tp"] == 16
    assert tpot(across) > tpot(within) / 2


def test_a_latent_cache_is_small() -> None:
    dense = predict("llama-3.1-405b", "h200-sxm", parallel={"tp": 8}, engine={"cache_blocks": 1000})
    latent = predict("deepseek-v3", "b200", parallel={"tp": 16, "ep": 16}, engine={"cache_blocks": 1000})
    for result, per_token in ((latent, 61 * 576 * 2), (dense, 126 * 2 * 128 * 2)):
        assert result.derived["cache_reserved_bytes"] == 1000 * 16 * per_token
        used = result.counters["engine"]["peak_cache_blocks"]
        assert result.memory.cache.mid == pytest.approx(used * 16 * per_token)
        assert 4 * 512 / 16 <= used < 1000


def test_a_shortened_prompt_takes_less_cache() -> None:
    whole, kept = (predict(techniques=t) for t in ([], ["gemfilter:keep=128"]))
    assert kept.memory.cache.mid < 0.4 * whole.memory.cache.mid


@pytest.mark.parametrize(
    ("values", "change"),
    [
        ({"model": "llama-2-13b", "device": "rtx-4090"}, "mxint8"),
        (
            {"model": "llama-3.1-70b", "device": "h100-sxm"},
            r"mxfp4 \(technique.*, or on 4 such devices \(tp=4\)|on 2 such devices",
        ),
        ({"model": "llama-3.1-405b", "device": "rtx-4090"}, "tp=|Neither"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_smallest_change(values: dict[str, Any], change: str) -> None:
    with pytest.raises(DoesNotFitError, match="does not fit on") as error:
        predict(**values)
    assert "weights" in str(error.value)
    assert "cache" in str(error.value)
    assert re.search(change, str(error.value)), str(error.value)


def test_a_single_machine_is_not_told_to_multiply() -> None:
    with pytest.raises(DoesNotFitError) as error:
        predict("llama-3.1-8b", "pim-gpt")
    assert "tp=" not in str(error.value)
    assert "devices" not in str(error.value)


@pytest.mark.parametrize("device", ["waferllm", "sn40l"])
def test_a_machine_is_not_told_to_take_weights_that_it_refuses(device: str) -> None:
    """Both multiply 16-bit weights alone: fewer bits are no way to fit."""
    with pytest.raises(DoesNotFitError) as error:
        predict("llama-2-70b", device)
    assert "int-vs-fp" not in str(error.value)
    assert ("tp=4" in str(error.value)) == (device == "sn40l")


def test_smallest_change_does_fit() -> None:
    with pytest.raises(DoesNotFitError) as error:
        predict("llama-2-13b", "rtx-4090")
    assert "int-vs-fp:format=mxint8" in str(error.value)
    predict("llama-2-13b", "rtx-4090", techniques=["int-vs-fp:format=mxint8"])


def test_behaviour_says_where_its_values_come_from() -> None:
    paper = predict(techniques=["copyspec"])
    user = predict(
        techniques=["copyspec"], behaviour={"draft_rate": 0.9, "draft_length": 8, "accepted_length": 7}
    )
    assert {b.source for b in paper.behaviour.values()} == {"paper"}
    assert {b.source for b in user.behaviour.values()} == {"user"}
    assert tpot(user) < tpot(paper) < tpot(predict()) * 1.2
    plan = Plan.from_dict({"model": "llama-3.1-8b", "workload": LOAD, "techniques": ["copyspec"]})
    recorded = predict_plan(plan, "h100-sxm", recorded={"draft_rate": 0.5})
    assert recorded.behaviour["draft_rate"].source == "recorded"


def test_ten_thousand_requests_of_a_real_trace(data_dir: Path) -> None:
    """The bound of the design is 60 s on one core; here it is only checked that the replay is complete (no
    wall time asserted)."""
    trace = data_dir / "azure-llm-2023-conv.csv"
    start = time.process_time()
    result = predict("llama-3.1-70b", parallel={"tp": 8}, workload={"trace": str(trace), "requests": 2000})
    print(f"2,000 requests in {time.process_time() - start:.1f} s of CPU")
    assert result.workload.requests == 2000
    assert result.counters["engine"]["output_tokens"] == pytest.approx(result.workload.output_tokens * 2000)
