"""The smallest change that lets a plan fit into memory."""

from __future__ import annotations

from collections.abc import Callable

from twofold.models.spec import ModelSpec
from twofold.plan import Plan, TechniqueUse


def smallest_change(plan: Plan, spec: ModelSpec, fits: Callable[[Plan], bool], *, linkable: bool) -> str:
    """A sentence naming the least change of each kind (length of requests, weight format, number of devices
    where they are `linkable`) with which `fits` holds."""
    found = [
        change
        for change in (_shorter(plan, spec, fits), _packed(plan, fits), _cut(plan, spec, fits))
        if change
    ]
    if not found:
        tried = "shorter requests nor weights in fewer bits"
        if linkable:
            tried = "shorter requests, weights in fewer bits nor more such devices"
        return f"Neither {tried} make it fit: choose a smaller model or a larger device"
    return "It would fit " + ", or ".join(found)


def _shorter(plan: Plan, spec: ModelSpec, fits: Callable[[Plan], bool]) -> str:
    load = plan.workload
    longest = min(spec.max_context, load.prompt + load.output)
    length = longest // 2
    while length >= 64:
        prompt, output = (max(1, length * part // longest) for part in (load.prompt, load.output))
        if fits(
            plan.model_copy(update={"workload": load.model_copy(update={"prompt": prompt, "output": output})})
        ):
            return f"with requests of at most {length} tokens"
        length //= 2
    return ""


def _packed(plan: Plan, fits: Callable[[Plan], bool]) -> str:
    if any(use.name == "int-vs-fp" for use in plan.techniques):
        return ""
    for fmt in ("mxint8", "mxfp4"):
        use = TechniqueUse(name="int-vs-fp", params={"format": fmt})
        if fits(plan.with_techniques((*plan.techniques, use))):
            return f"with weights in {fmt} (technique int-vs-fp:format={fmt})"
    return ""


def _cut(plan: Plan, spec: ModelSpec, fits: Callable[[Plan], bool]) -> str:
    cut = plan.parallel
    for factor in (2, 4, 8, 16, 32):
        tp = cut.tp * factor
        ep = cut.ep * factor if cut.ep > 1 else 1
        if fits(plan.model_copy(update={"parallel": cut.model_copy(update={"tp": tp, "ep": ep})})):
            return f"on {tp * cut.pp * cut.dp} such devices (tp={tp})"
    return ""
