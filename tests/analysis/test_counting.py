"""Counted steps against the model's own figures and against other devices."""

from __future__ import annotations

from typing import Any

import pytest

from twofold.analysis.counting import StepCounter
from twofold.analysis.peak import peak_device
from twofold.jobs.steps import StepPredictor
from twofold.models.catalog import get_spec
from twofold.ops.attention import Span
from twofold.plan import Plan


def plan(model: str = "llama-3.1-8b", **changes: Any) -> Plan:
    """A plan that holds few short requests."""
    values = {
        "model": model,
        "precision": "bf16",
        "workload": {"prompt": 16, "output": 16},
        "engine": {"max_num_seqs": 4, "max_context": 4096, "cache_blocks": 2048},
    }
    return Plan.from_dict({**values, **changes})


def test_a_decode_multiplies_every_weight_once_per_sequence() -> None:
    spec = get_spec("llama-3.1-8b")
    found = StepCounter(plan(), spec).step([Span(1, 1000)] * 3, 3)
    matrices = spec.num_parameters() - spec.vocab_size * spec.hidden  # the embedding is looked up
    norms = spec.hidden * (2 * spec.num_layers + 1)
    assert found.flop_of["linear"] == 2 * 3 * (matrices - norms)
    assert found.moved["weights"] == pytest.approx(2 * matrices, rel=1e-3)
    cache = 2 * spec.kv_elements_per_token * spec.num_layers
    assert found.moved["cache"] == 3 * cache * 1000 + 3 * cache  # read, and the new entries written
    assert found.messages == 0
    assert found.sent == 0


def test_ranks_share_the_work_and_talk() -> None:
    spec = get_spec("llama-3.1-8b")
    whole = StepCounter(plan(), spec).step([Span(1, 1000)], 1)
    part = StepCounter(plan(parallel={"tp": 4}), spec).step([Span(1, 1000)], 1)
    assert part.matrix_flop == whole.matrix_flop / 4
    assert part.messages == 2 * spec.num_layers + 1
    assert part.sent > 0


def test_techniques_count() -> None:
    spec = get_spec("llama-3.1-8b")
    kivi = plan(
        techniques=["kivi:bits=2"], engine={"max_num_seqs": 1, "max_context": 4096, "cache_blocks": 64}
    )
    plain = StepCounter(plan(), spec).step([Span(1, 4000)], 1)
    small = StepCounter(kivi, spec).step([Span(1, 4000)], 1)
    assert small.moved["cache"] < 0.3 * plain.moved["cache"]
    assert small.moved["weights"] == plain.moved["weights"]


@pytest.mark.parametrize("spans", [[Span(512, 512)], [Span(1, 900)] * 4])
def test_peak_is_never_slower_than_the_model_of_the_device(spans: list[Span]) -> None:
    model = plan(engine={"max_num_seqs": 4, "max_context": 4096})
    fast = StepPredictor(model, peak_device("a100-80g-sxm"))
    real = StepPredictor(model, "a100-80g-sxm")
    bound, seconds = fast.step(spans).seconds, real.step(spans).seconds
    assert 0 < bound < seconds
    counted = StepCounter(plan(), get_spec("llama-3.1-8b")).step(spans, len(spans))
    assert bound >= max(counted.matrix_flop / 312e12, counted.streamed / 2039e9)
