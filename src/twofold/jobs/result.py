"""From an engine that has played its workload to a Result: the same sums for measurements and predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from twofold.devices.base import OpTotals
from twofold.devices.catalog import THIS_CPU
from twofold.engine.accounts import Accounts
from twofold.engine.request import Request
from twofold.plan import Plan
from twofold.report.schema import (
    BehaviourValue,
    Bound,
    Ceilings,
    Figure,
    LatencyName,
    Load,
    Memory,
    OpShare,
    Percentile,
    Result,
    TechniqueUse,
)
from twofold.workloads.workload import Workload

_PERCENTILES: dict[Percentile, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Played:
    """A workload that an engine has finished: its requests, and seconds from the first arrival to the last
    token."""

    requests: list[Request]
    seconds: float

    def latencies(self) -> dict[LatencyName, list[float]]:
        """Seconds by name: to the first token, per further token (mean of a request), between tokens, to the
        last token."""
        out: dict[LatencyName, list[float]] = {"ttft": [], "tpot": [], "itl": [], "e2e": []}
        for r in self.requests:
            if r.first_token_time is None or r.last_token_time is None:
                continue
            out["ttft"].append(r.first_token_time - r.arrival_time)
            out["e2e"].append(r.last_token_time - r.arrival_time)
            if r.num_output_tokens > 1:
                out["tpot"].append((r.last_token_time - r.first_token_time) / (r.num_output_tokens - 1))
            if r.token_times is not None:
                out["itl"] += [b - a for a, b in zip(r.token_times, r.token_times[1:], strict=False)]
        return out


def make_result(
    plan: Plan,
    accounts: Sequence[Accounts],
    played: Played,
    workload: Workload,
    *,
    label: str,
    model: str,
    quality_missing: str = "quality was not asked for",
    grown: float | None = None,
    energy_missing: str = "",
    ceilings: Ceilings | None = None,
) -> Result:
    """The Result of one or several replicas (`accounts` of their engines) that shared a workload.

    grown: bytes by which the process grew while loading and running. Missing figures need their reason.
    """
    engine = accounts[0]
    latencies = played.latencies()
    totals = [each.totals for each in accounts]
    output = sum(r.num_output_tokens for r in played.requests)
    busy = sum(t.busy_seconds for t in totals)
    prefill = sum(t.prefill_seconds for t in totals)
    work = _merged(accounts)
    missing = {"quality": quality_missing}

    def mean(name: LatencyName, why: str) -> Figure | None:
        values = latencies[name]
        if not values:
            missing[name] = why
            return None
        return Figure.exact(math.fsum(values) / len(values), "s")

    one = "every request yields one token"
    ttft, tpot = mean("ttft", "no request yielded a token"), mean("tpot", one)
    itl, e2e = mean("itl", one), mean("e2e", "no request yielded a token")
    joules = None
    if all(t.joules is not None for t in totals):
        # Each of the replicas of one deployment counts the energy of all of them.
        replicas = len(accounts) if plan.parallel.dp > 1 else 1
        joules = sum(t.joules or 0.0 for t in totals) / replicas
    energy = None
    if joules is None or not output:
        missing["energy_per_token"] = energy_missing or "no energy meter was read"
    else:
        energy = Figure.exact(joules / output, "J/token")
    prompt_tokens = sum(t.prompt_tokens for t in totals)
    if not prefill:
        missing["prefill_tokens_per_s"] = "no step computed a prompt"
    flop = sum(w.flop for w in work.values())
    moved = sum(w.bytes_moved for w in work.values())
    memory = engine.memory
    # Instances on one machine share its memory, and in one process the weights and the activations.
    shared = plan.parallel.dp == 1 and (engine.real or engine.device == THIS_CPU)
    together = sum if shared else max
    processes = len(accounts) if engine.real and plan.engine.processes else 1
    return Result(
        kind="run" if engine.real else "predict",
        label=label,
        model=model,
        device=engine.device,
        parallel={}
        if plan.parallel.tp * plan.parallel.pp * plan.parallel.dp == 1
        else plan.parallel.model_dump(),
        techniques=[TechniqueUse(name=used.name, params=plain(used.params)) for used in engine.techniques],
        workload=Load(
            summary=workload.summary,
            requests=len(workload.items),
            prompt_tokens=workload.prompt_tokens,
            output_tokens=workload.output_tokens,
            concurrency=workload.concurrency,
            requests_per_s=plan.workload.rate,
        ),
        ttft=ttft,
        tpot=tpot,
        itl=itl,
        e2e=e2e,
        percentiles={name: _percentiles(values) for name, values in latencies.items() if values},
        tokens_per_s=Figure.exact(output / played.seconds, "token/s"),
        prefill_tokens_per_s=Figure.exact(prompt_tokens / prefill, "token/s") if prefill else None,
        achieved_gb_s=Figure.exact(moved / busy / 1e9, "GB/s"),
        achieved_gflop_s=Figure.exact(flop / busy / 1e9, "GFLOP/s"),
        memory=Memory.of(
            weights=processes * memory.weights,
            cache=together(e.memory.cache_in_use(e.totals.peak_blocks, e.totals.peak_seqs) for e in accounts),
            activations=processes * memory.activations,
            other=together(memory.held.total(e.totals.peak_blocks, e.totals.peak_seqs) for e in accounts),
            capacity=memory.capacity,
            grown=grown,
        ),
        energy_per_token=energy,
        confidence=engine.confidence,
        behaviour=behaviour_of(accounts),
        counters=_counters(accounts),
        breakdown=_breakdown(engine, work),
        joules_by_part=_joules_by_part(accounts, joules),
        ceilings=ceilings,
        derived={k: v for k, v in engine.derived.items() if isinstance(v, str | int | float | bool)},
        missing=missing,
        plan=plan.model_dump(mode="json", exclude_defaults=True),
        seed=plan.seed,
    )


def behaviour_of(accounts: Sequence[Accounts]) -> dict[str, BehaviourValue]:
    """Data-dependent quantities: those that a run measured, or those that a prediction used with where they
    come from."""
    if not accounts[0].real:
        used = {k: v for technique in accounts[0].techniques for k, v in technique.behaviour.items()}
        return {
            k: BehaviourValue(value=value, source=_source(note), note=note)
            for k, (value, note) in used.items()
        }
    measured = measured_behaviour(accounts)
    return {k: BehaviourValue(value=v, source="measured", note="this run") for k, v in measured.items()}


def measured_behaviour(accounts: Sequence[Accounts]) -> dict[str, float]:
    """What depends on data as it turned out to be, in the quantities that predictions use."""
    first = accounts[0]
    found = {name: value for technique in first.techniques for name, value in technique.measured.items()}
    decodes = sum(each.totals.decodes for each in accounts)
    drafts = sum(each.totals.drafts for each in accounts)
    if first.drafting is None or not decodes:
        return found
    drafted, accepted = sum(e.totals.drafted for e in accounts), sum(e.totals.accepted for e in accounts)
    return {
        **found,
        "draft_rate": drafts / decodes,
        "draft_length": drafted / max(drafts, 1),
        "accepted_length": accepted / max(drafts, 1),
        **first.drafting,
    }


def _source(note: str) -> Literal["recorded", "user", "paper"]:
    if note.startswith("recorded"):
        return "recorded"
    return "user" if note.startswith("given by the user") else "paper"


def plain(params: dict[str, Any]) -> dict[str, JsonValue]:
    """Parameters of a technique as JSON holds them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}


def _merged(accounts: Sequence[Accounts]) -> dict[str, OpTotals]:
    merged: dict[str, OpTotals] = {}
    for each in accounts:
        for kind, t in each.ops.items():
            into = merged.setdefault(kind, OpTotals())
            for name in ("calls", "seconds", "joules", "flop", "vector_flop", "bytes_moved", "sent"):
                setattr(into, name, getattr(into, name) + getattr(t, name))
    return merged


def _joules_by_part(accounts: Sequence[Accounts], joules: float | None) -> dict[str, float]:
    """Dynamic energy by part of the machine, and what of all `joules` is left: its idle power."""
    parts: dict[str, float] = {}
    for each in accounts:
        for part, spent in each.joules_by_part.items():
            parts[part] = parts.get(part, 0.0) + spent
    if parts and joules is not None:
        parts["idle"] = max(0.0, joules - sum(parts.values()))
    return parts


def _percentiles(values: list[float]) -> dict[Percentile, Figure]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return {name: Figure.exact(ordered[round(share * last)], "s") for name, share in _PERCENTILES.items()}


def _counters(accounts: Sequence[Accounts]) -> dict[str, dict[str, float]]:
    """What all instances did together, and the most blocks that one of them took."""
    totals = [each.totals for each in accounts]
    found: dict[str, dict[str, float]] = {
        "engine": {
            "steps": sum(t.steps for t in totals),
            "prompt_tokens": sum(t.prompt_tokens for t in totals),
            "output_tokens": sum(t.output_tokens for t in totals),
            "peak_cache_blocks": max(t.peak_blocks for t in totals),
            "preemptions": sum(each.preemptions for each in accounts),
            "prefix_hit_tokens": sum(each.prefix_hit_tokens for each in accounts),
        }
    }
    for alike in zip(*(each.techniques for each in accounts), strict=True):
        counted = alike[:1] if alike[0].shared else alike
        counters = [technique.counters for technique in counted]
        found[alike[0].name] = {k: float(sum(c[k] for c in counters)) for k in counters[0]}
    return found


def _breakdown(engine: Accounts, work: dict[str, OpTotals]) -> list[OpShare]:
    total = sum(w.seconds for w in work.values())
    if not total:
        return []
    bounds = _bounds(engine)
    return [
        OpShare(
            kind=kind,
            calls=w.calls,
            seconds=w.seconds,
            flop=w.flop + w.vector_flop,
            bytes=w.bytes_moved,
            share=w.seconds / total,
            bound=bounds.get(kind, "unknown"),
            joules=None if engine.real else w.joules,
        )
        for kind, w in sorted(work.items(), key=lambda item: -item[1].seconds)
    ]


def _bounds(engine: Accounts) -> dict[str, Bound]:
    """What takes most of the seconds of each kind of op."""
    best: dict[str, tuple[float, Bound]] = {}
    for (kind, bound), seconds in engine.bounds.items():
        if seconds > best.get(kind, (-1.0, "unknown"))[0]:
            best[kind] = (seconds, bound)  # type: ignore[assignment]
    return {kind: bound for kind, (_, bound) in best.items()}
