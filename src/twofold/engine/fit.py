"""The smallest change that lets a plan fit into memory."""

from __future__ import annotations

from collections.abc import Callable

from twofold.models.spec import ModelSpec
from twofold.plan import ParallelPlan, Plan, TechniqueUse


def smallest_change(plan: Plan, spec: ModelSpec, fits: Callable[[Plan], bool]) -> str:
    """A sentence naming the least change among context, weight format and number of devices with which `fits` holds."""
    longest = min(spec.max_context, plan.workload.prompt + plan.workload.output)
    shorter = longest // 2
    while shorter >= 64:
        load = plan.workload.model_copy(
            update={"prompt": max(1, shorter * plan.workload.prompt // longest), "output": max(1, shorter * plan.workload.output // longest)}
        )
        if fits(plan.model_copy(update={"workload": load})):
            return f"It would fit with requests of at most {shorter} tokens"
        shorter //= 2
    names = {use.name for use in plan.techniques}
    if "int-vs-fp" not in names:
        for fmt in ("mxint8", "mxfp4"):
            use = TechniqueUse(name="int-vs-fp", params={"format": fmt})
            if fits(plan.with_techniques((*plan.techniques, use))):
                return f"It would fit with weights in {fmt}: add technique int-vs-fp:format={fmt}"
    tp = plan.parallel.tp
    for factor in (2, 4, 8, 16, 32):
        cut = ParallelPlan(**{**plan.parallel.model_dump(), "tp": tp * factor, "ep": plan.parallel.ep})
        if spec.num_heads % cut.tp == 0 and fits(plan.model_copy(update={"parallel": cut})):
            return f"It would fit on {cut.tp * cut.pp * cut.dp} such devices: tp={cut.tp}"
    return "No number of such devices up to 32 with tensor parallelism holds it: choose a smaller model or a larger device"
