"""What can be said of a plan before it has served anything: its techniques, and a prediction for this
machine. Takes seconds, so it runs in a process beside the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twofold.devices.catalog import THIS_CPU
from twofold.jobs.predict import predict_plan
from twofold.plan import Plan, WorkloadPlan
from twofold.techniques.base import Technique
from twofold.techniques.registry import make_technique

CONCURRENCY, REQUESTS, PROMPT, OUTPUT = 8, 32, 256, 64
"""The load that is predicted; shorter where the model's context is."""

FIGURES = ("ttft", "tpot", "e2e", "tokens_per_s", "prefill_tokens_per_s", "energy_per_token")


@dataclass(frozen=True, slots=True)
class Described:
    """The techniques of a plan, and its prediction; `missing` says why where there is none. Plain values, as
    `server.about` names them."""

    techniques: list[dict[str, Any]]
    prediction: dict[str, Any] | None
    missing: str | None


def describe(plan: Plan, replicas: int, max_context: int) -> Described:
    """What there is to say of `plan`, run by `replicas` engines on this machine whose requests may have
    `max_context` tokens."""
    techniques = [_technique(make_technique(use.name, use.params)) for use in plan.techniques]
    try:
        return Described(techniques, _predicted(plan, replicas, max_context), None)
    except ValueError as error:
        return Described(techniques, None, str(error))


def _technique(technique: Technique) -> dict[str, Any]:
    info = technique.info
    return {
        "name": info.name,
        "title": info.title,
        "source": info.source,
        "summary": info.summary,
        "seams": list(info.seams),
        "lossless": info.lossless,
        "needs": list(info.needs),
        "params": technique.params,
    }


def _predicted(plan: Plan, replicas: int, max_context: int) -> dict[str, Any]:
    """ValueError says why there is none."""
    if plan.device != "cpu":
        raise ValueError(f"calibrated processors are predicted, and this plan runs on {plan.device}")
    if replicas > 1:
        raise ValueError(
            f"a prediction is of one engine that has its machine for itself; here {replicas} share one"
        )
    output = max(1, min(OUTPUT, max_context // 4))
    prompt = max(1, min(PROMPT, max_context - output - 1))
    load = WorkloadPlan(requests=REQUESTS, prompt=prompt, output=output, concurrency=CONCURRENCY)
    result = predict_plan(plan.model_copy(update={"workload": load}), THIS_CPU)
    figures = {name: result.figure(name) for name in FIGURES}
    parts = result.memory.model_dump(exclude={"capacity", "unaccounted"})
    return {
        "device": result.device,
        "load": result.workload.summary,
        "figures": {name: None if f is None else f.model_dump() for name, f in figures.items()},
        "memory": {name: part["mid"] for name, part in parts.items()},
        "confidence": result.confidence,
        "intervals": result.intervals,
        "missing": {name: why for name, why in result.missing.items() if name in FIGURES},
    }
