"""The costs of contexts on one deployment, length by length, with their plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from twofold.analysis.longctx import ContextCost, SessionLoad, Sessions, context_cost, sessions
from twofold.analysis.peak import peak_device
from twofold.analysis.trust import Trust
from twofold.jobs.steps import StepPredictor
from twofold.models.spec import ModelSpec
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.report.curves import curves
from twofold.report.pictures import Picture
from twofold.report.schema import Figure

_SMALL = 16
"""Tokens of a request that the engine must hold to be built at all: what else fits is the result."""


class Row(NamedTuple):
    """One context: its cost, the sessions that come of it, and the predicted prefill and answer with their
    intervals (exact at the peak, which predicts nothing)."""

    cost: ContextCost
    sessions: Sessions | None
    prefill: Figure
    answer: Figure

    def record(self) -> dict[str, Any]:
        """The figures for JSON."""
        return {
            **asdict(self.cost),
            "prefill": self.prefill.model_dump(),
            "decode": self.answer.model_dump(),
            "sessions": None if self.sessions is None else asdict(self.sessions),
        }


class Sweep(NamedTuple):
    """name: of the deployment; confidence: how far its times can be trusted; rows: in ascending contexts."""

    name: str
    confidence: str
    rows: list[Row]


def sweep(
    plan: Plan,
    contexts: Sequence[int],
    load: SessionLoad,
    spec: ModelSpec,
    stored: Checkpoint | None = None,
    *,
    peak: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Sweep:
    """The costs of each of `contexts` on the plan's device; with `peak` at its datasheet's peaks.

    ValueError where the model does not fit even with the shortest of contexts.
    """
    small = plan.workload.model_copy(update={"prompt": _SMALL, "output": _SMALL})
    cut = plan.parallel
    device = peak_device(plan.device, num_devices=cut.tp * cut.pp) if peak else plan.device
    predictor = StepPredictor(plan.model_copy(update={"workload": small}), device, spec=spec, stored=stored)
    rows: list[Row] = []
    for context in sorted(set(contexts)):
        progress("costing contexts", len(rows), len(set(contexts)))
        cost = context_cost(predictor, context, load.output)
        prefill, answer = Figure.exact(cost.prefill, "s"), Figure.exact(cost.decode, "s")
        if not peak:
            trust = Trust(predictor, plan, 1, context + load.output)
            prefill, answer = trust.time("ttft", cost.prefill), trust.time("tpot", cost.decode)
        rows.append(Row(cost, sessions(cost, load), prefill, answer))
    count = cut.tp * cut.pp
    name = predictor.device.name + (f" × {count}" if count > 1 else "")
    return Sweep(name, "theoretical peak" if peak else Trust(predictor, plan, 1, 1).confidence, rows)


def pictures(rows: Sequence[Row]) -> list[Picture]:
    """Latencies over the context, and what a deployment serves."""

    def over(pick: Callable[[ContextCost], float | None]) -> list[tuple[float, float]]:
        return [(float(cost.context), value) for cost, *_ in rows if (value := pick(cost))]

    latencies = {
        "prefill": over(lambda cost: cost.prefill),
        "answer": over(lambda cost: cost.decode),
        "switch": over(lambda cost: cost.switch),
    }
    drawn = [
        Picture(
            "Latency over the context",
            "Prefill grows faster than the context once attention outweighs the products; an answer reads "
            "the cache "
            "once per token; a switch moves it over the host link twice.",
            curves(_drawn(latencies), x="tokens of context", y="seconds", name="latency", unit="s"),
        )
    ]
    served = {
        "contexts at a time": over(lambda cost: float(cost.concurrency)),
        "sessions per hour": [
            (float(row.cost.context), row.sessions.per_hour) for row in rows if row.sessions is not None
        ],
    }
    if any(served.values()):
        drawn.append(
            Picture(
                "What the deployment serves",
                "Fewer contexts fit as they grow; sessions fall with them once the device is the limit. A "
                "curve ends "
                "where not one context fits.",
                curves(_drawn(served), x="tokens of context", y="number", name="served"),
            )
        )
    return drawn


def _drawn(series: dict[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    return {label: points for label, points in series.items() if points}
