"""A measured load as a result in the database, beside those of `run`."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twofold.jobs.predict import label_of
from twofold.jobs.result import plain
from twofold.loadgen.measure import LATENCIES, LatencyName, Measured, Summary
from twofold.loadgen.prediction import as_workload
from twofold.loadgen.session import Point
from twofold.plan import Plan, WorkloadPlan
from twofold.report.schema import Figure, Load, Memory, Percentile, Result, TechniqueUse
from twofold.techniques.registry import make_technique
from twofold.workloads.workload import Workload

SHARED = 0.01
"""Share of prompt tokens out of the server's prefix cache above which a plan cannot repeat the load."""

_UNSEEN = {
    "prefill_tokens_per_s": "a client does not see when prompts are computed",
    "achieved_gb_s": "a client does not see what the server moves",
    "achieved_gflop_s": "a client does not see what the server computes",
    "energy_per_token": "no energy meter was read",
    "quality": "a load measures no quality",
}
_ONE = "the answers were not streamed, or have one token each"


def as_result(about: Mapping[str, Any], point: Point, folder: Path) -> Result:
    """The figures of `point` as a run of the plan that the server tells in `about` (GET /plan), so that
    `twofold validate` can predict it again.

    folder: where times and lengths of its requests are written, if a plan cannot say them in its own words.
    ValueError where a plan cannot repeat it, or if that cannot be written.
    """
    plan, derived = Plan.from_dict(about["given"], "the server's plan"), about["derived"]
    measured = point.measured
    if about["replicas"] > 1:
        raise ValueError("a plan is of one engine, and the server has several")
    if measured.cached is not None and measured.cached > SHARED:
        raise ValueError(
            f"{measured.cached:.0%} of the prompts' tokens were in the server's prefix cache, and a plan "
            "cannot say what prompts share (--endpoint completions leaves out the chat template)"
        )
    if measured.errors:
        raise ValueError("not every request was answered")
    workload = as_workload(point, None, "chat")
    missing = {**_UNSEEN, **{n: _ONE for n in ("ttft", "tpot", "itl", "e2e") if n not in measured.latencies}}
    asked = plan.model_copy(update={"workload": workload_plan(point, workload, folder)})
    techniques = [(u.name, make_technique(u.name, u.params)) for u in plan.techniques]
    return Result(
        kind="run",
        label=f"served: {label_of(plan)}",
        model=plan.model,
        device=plan.device,
        techniques=[TechniqueUse(name=name, params=plain(t.params)) for name, t in techniques],
        workload=Load(
            summary=f"served, {point.load}",
            requests=measured.completed,
            prompt_tokens=workload.prompt_tokens,
            output_tokens=workload.output_tokens,
            concurrency=workload.concurrency,
            requests_per_s=None if point.load.arrivals is None else point.load.arrivals.rate,
        ),
        ttft=_mean(measured, "ttft"),
        tpot=_mean(measured, "tpot"),
        itl=_mean(measured, "itl"),
        e2e=_mean(measured, "e2e"),
        percentiles={n: _percentiles(measured.latencies[n]) for n in LATENCIES if n in measured.latencies},
        tokens_per_s=Figure.exact(measured.tokens_per_s, "token/s"),
        memory=Memory.of(**about["memory"]),
        confidence="measured",
        derived={k: v for k, v in derived.items() if isinstance(v, str | int | float | bool)},
        missing=missing,
        plan=asked.model_dump(mode="json", exclude_defaults=True),
        seed=point.load.seed,
    )


def workload_plan(point: Point, workload: Workload, folder: Path) -> WorkloadPlan:
    """A workload that repeats the requests of `point`: in a plan's own words where these say it, else a trace
    in `folder`, named by its contents."""
    rows = [
        (item.time, item.prompt if isinstance(item.prompt, int) else len(item.prompt), item.params.max_tokens)
        for item in workload.items
    ]
    arrivals = point.load.arrivals
    poisson = arrivals is not None and arrivals.process == "poisson"
    if len({row[1:] for row in rows}) == 1 and (poisson or workload.concurrency):
        _, prompt, output = rows[0]
        return WorkloadPlan(
            requests=len(rows),
            prompt=prompt,
            output=output,
            concurrency=workload.concurrency,
            rate=arrivals.rate if arrivals is not None else None,
            seed=point.load.seed,
        )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("arrival_time", "prompt_tokens", "output_tokens"))
    writer.writerows((f"{time:.6f}", prompt, output) for time, prompt, output in rows)
    text = out.getvalue()
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the load's times cannot be written to {path}: {error.strerror}") from None
    return WorkloadPlan(trace=path, concurrency=workload.concurrency)


def _mean(measured: Measured, name: LatencyName) -> Figure | None:
    found = measured.latencies.get(name)
    return None if found is None else Figure.exact(found.mean, "s")


def _percentiles(found: Summary) -> dict[Percentile, Figure]:
    values: dict[Percentile, float] = {"p50": found.p50, "p90": found.p90, "p99": found.p99}
    return {name: Figure.exact(value, "s") for name, value in values.items()}
