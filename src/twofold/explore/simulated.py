"""The figures of a technique over several instances. No formula has prompts that queue at one pool and tokens
in another, so its candidates are simulated at once, as in Splitwise's own provisioning (arXiv:2311.18677,
section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.explore.describe import result_figures
from twofold.explore.load import Estimate
from twofold.jobs.predict import predict_plan
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan


def simulated(
    plan: Plan, device: str, spec: ModelSpec, stored: Checkpoint | None, statistics: Sequence[str]
) -> Estimate:
    """What `plan` does on `device`, with the percentiles in `statistics`. ValueError where it cannot work."""
    result = predict_plan(plan, device, spec=spec, stored=stored)
    figures = result_figures(result, None)
    assert figures.joules_per_token is not None, "modelled devices count energy"
    none = dict.fromkeys(("mean", *statistics), 0.0)  # requests of one token have no time between tokens
    tpot = none | figures.tpot
    return Estimate(
        figures.tokens_per_s,
        none | figures.ttft,
        tpot,
        figures.e2e,
        figures.joules_per_token,
        round(figures.memory_bytes),
        figures.tokens_per_s * tpot["mean"],
    )
