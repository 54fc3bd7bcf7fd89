"""Candidates and figures in words and records."""

from __future__ import annotations

from twofold.explore.load import Estimate
from twofold.explore.objectives import cost_of
from twofold.explore.outcome import Figures, Place
from twofold.explore.space import Candidate, Space
from twofold.report.schema import Result
from twofold.techniques.registry import make_technique


def technique_labels(space: Space, candidate: Candidate) -> list[str]:
    """The techniques of `candidate` as tables name them."""
    return [make_technique(use.name, use.params).label for use in space.uses(candidate.deployment)]


def place_of(space: Space, candidate: Candidate) -> Place:
    """What `candidate` is, as a record."""
    where, setting = candidate.deployment, candidate.setting
    cut = where.layout
    return Place(
        device=where.device,
        count=space.devices(where),
        tp=cut.tp,
        pp=cut.pp,
        dp=cut.dp,
        ep=cut.ep,
        techniques=technique_labels(space, candidate),
        precision=where.precision,
        weights=where.weights,
        cache_format=where.cache_format,
        max_num_seqs=setting.max_num_seqs,
        max_num_batched_tokens=setting.max_num_batched_tokens,
        concurrency=setting.concurrency,
        rate=setting.rate,
    )


def label_of(space: Space, candidate: Candidate) -> str:
    """A short name: devices and layout, and of everything else what the space varies."""
    place, axes = place_of(space, candidate), space.axes
    parts = [f"{place.count} × {place.device}"]
    if place.count > 1:
        parts[0] += f" ({candidate.deployment.layout.label})"
    if len(axes["techniques"]) > 1:
        parts.append(" + ".join(place.techniques) or "no technique")
    for name in ("precision", "weights", "cache_format"):
        if len(axes[name]) > 1:
            parts.append(f"{name.replace('_format', '')} {getattr(place, name)}")
    if len(axes["load"]) > 1:
        parts.append(f"{place.rate:g} requests/s" if place.rate else f"{place.concurrency} at a time")
    if len(axes["max_num_seqs"]) > 1:
        parts.append(f"{place.max_num_seqs} seqs")
    if len(axes["max_num_batched_tokens"]) > 1:
        parts.append(f"{place.max_num_batched_tokens} tokens/step")
    return ", ".join(parts)


def estimated_figures(estimate: Estimate, price: float | None) -> Figures:
    """The figures of an estimate."""
    return Figures(
        tokens_per_s=estimate.tokens_per_s,
        ttft=estimate.ttft,
        tpot=estimate.tpot,
        e2e=estimate.e2e,
        joules_per_token=estimate.joules,
        memory_bytes=estimate.memory,
        usd_per_million=None if price is None else cost_of(price, estimate.tokens_per_s),
    )


def result_figures(result: Result, price: float | None) -> Figures:
    """The same figures of a simulation or a run."""
    assert result.tokens_per_s is not None
    tokens = result.tokens_per_s.mid

    def latency(name: str) -> dict[str, float]:
        mean = result.figure(name)
        found = {} if mean is None else {"mean": mean.mid}
        shares = result.percentiles.get(name, {})  # type: ignore[call-overload]
        return found | {str(share): figure.mid for share, figure in shares.items()}

    return Figures(
        tokens_per_s=tokens,
        ttft=latency("ttft"),
        tpot=latency("tpot"),
        e2e=result.e2e.mid if result.e2e is not None else 0.0,
        joules_per_token=None if result.energy_per_token is None else result.energy_per_token.mid,
        memory_bytes=result.memory.total.mid,
        usd_per_million=None if price is None else cost_of(price, tokens),
    )
