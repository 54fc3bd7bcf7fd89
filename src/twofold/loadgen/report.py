"""What was measured of a server as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twofold.loadgen.doubts import doubts
from twofold.loadgen.measure import LATENCIES, LatencyName, Measured, Summary
from twofold.loadgen.session import Point, Session
from twofold.report import units
from twofold.report.grid import Column, Grid, Line
from twofold.report.schema import Result

NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "end to end"}
_STATISTICS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True, slots=True)
class Shown:
    """A point with its prediction: None where there is none."""

    point: Point
    predicted: Result | None = None


def grids(session: Session, shown: Sequence[Shown]) -> list[Grid]:
    """The sweep in one table where there is more than one point, then each point in full."""
    sweep = [_sweep(session, shown)] if len(shown) > 1 else []
    return sweep + [grid for one in shown for grid in (_latencies(one), _throughput(session, one))]


def _latencies(one: Shown) -> Grid:
    m, lines = one.point.measured, []
    for name in LATENCIES:
        found = m.latencies.get(name)
        if found is None:
            continue
        lines.append(
            Line((NAMES[name], "measured", *(units.seconds(getattr(found, s)) for s in _STATISTICS)))
        )
        if one.predicted is not None and (told := statistics(one.predicted, name)):
            lines.append(Line(("", "predicted", *(units.seconds(told[s]) for s in _STATISTICS))))
            errors = (told[s] / getattr(found, s) - 1 if getattr(found, s) else 0.0 for s in _STATISTICS)
            lines.append(Line(("", "error", *map(units.signed_percent, errors))))
    columns = (
        Column("latency", align="left"),
        Column("source", align="left"),
        *(Column(s) for s in _STATISTICS),
    )
    notes = []
    if m.piece_tokens is not None:
        notes.append(
            f"ITL is between pieces of the stream, of {m.piece_tokens:.2f} tokens each; TPOT is from the "
            "first to the last piece over the tokens after the first, a mean per request"
        )
    if one.predicted is not None:
        notes.append(f"prediction on {one.predicted.device}, {one.predicted.confidence}; no HTTP in it")
    return Grid(f"{one.point.load}", columns, tuple(lines), tuple(notes))


def statistics(result: Result, name: str) -> dict[str, float] | None:
    """Mean and percentiles of a predicted latency in seconds; None where it has none."""
    mean = result.figure(name)
    spread = {str(key): value for key, value in result.percentiles.items()}.get(name)
    if mean is None or not spread:
        return None
    return {"mean": mean.mid, **{str(p): figure.mid for p, figure in spread.items()}}


def _throughput(session: Session, one: Shown) -> Grid:
    m = one.point.measured
    told = one.predicted.tokens_per_s if one.predicted is not None else None
    rows: list[tuple[str, str, str, str]] = [
        _beside("generated token/s", m.tokens_per_s, told.mid if told else None),
        ("requests/s", units.digits(m.requests_per_s), "", ""),
    ]
    objective = session.settings.objective
    if objective is not None and m.goodput is not None and m.good is not None:
        share = f"{units.digits(m.goodput)} ({units.percent(m.good / m.sent)} of those sent)"
        rows.append((f"goodput, requests/s with {objective}", share, "", ""))
    rows += [
        (
            "requests in flight, mean (peak)",
            f"{units.digits(m.concurrency_mean)} ({m.concurrency_peak})",
            "",
            "",
        ),
        ("requests sent", f"{m.sent:,}", "", ""),
        ("completed", f"{m.completed:,}", "", ""),
        ("refused (429)", f"{m.refused:,}", "", ""),
    ]
    rows += [(f"failed: {kind}", f"{n:,}", "", "") for kind, n in m.errors.items() if kind != "HTTP 429"]
    prompt = units.UNKNOWN if m.prompt_tokens is None else f"{m.prompt_tokens:,}"
    rows.append(("prompt and generated tokens", f"{prompt} and {m.output_tokens:,}", "", ""))
    if m.cached is not None:
        rows.append(("prompt tokens out of the server's prefix cache", units.percent(m.cached), "", ""))
    rows.append(("duration", units.seconds(m.seconds), "", ""))
    if m.lag is not None:
        rows.append(("sent late by, p50 (p99)", _pair(m.lag), "", ""))
    cpu = f"{units.percent(m.generator.cpu / m.seconds)}" if m.seconds else units.UNKNOWN
    if m.output_tokens:
        cpu += f", {units.seconds(m.generator.cpu / m.output_tokens)} per token"
    rows.append(("the generator's own processor time", cpu, "", ""))
    notes = [f"{kind}: {said}" for kind, said in m.messages.items() if said]
    notes.append(f"generated tokens counted by {m.counted}; {session.server.counter.how}")
    told_any = any(row[2] for row in rows)
    columns = [Column("", align="left"), Column("measured")]
    columns += [Column("predicted"), Column("error")] if told_any else []
    lines = tuple(Line(row if told_any else row[:2]) for row in rows)
    return Grid("Throughput", tuple(columns), lines, tuple(notes))


def _pair(found: Summary) -> str:
    return f"{units.seconds(found.p50)} ({units.seconds(found.p99)})"


def _beside(name: str, measured: float, predicted: float | None) -> tuple[str, str, str, str]:
    if predicted is None or not measured:
        return name, units.digits(measured), "", ""
    error = units.signed_percent(predicted / measured - 1)
    return name, units.digits(measured), units.digits(predicted), error


def _sweep(session: Session, shown: Sequence[Shown]) -> Grid:
    """A line per point; predicted figures stand beside the measured ones."""
    predicted = any(one.predicted is not None for one in shown)
    goodput = session.settings.objective is not None
    second = (Column("", "predicted"),) if predicted else ()
    columns = [Column("load", align="left")]
    for heading, unit in (("TTFT", "p50"), ("TPOT", "p50")):
        columns += [Column(heading, unit), *second]
    columns += [Column("TTFT", "p99"), Column("ITL", "p99"), Column("end to end", "p50")]
    columns += [Column("speed", "token/s"), *second, Column("requests/s")]
    columns += [Column("goodput", "requests/s")] if goodput else []
    columns += [Column("in flight", "mean"), Column("refused"), Column("failed")]
    lines = []
    for one in shown:
        m = one.point.measured
        cells = [one.point.name]
        for name in ("ttft", "tpot"):
            cells.append(_cell(m, name, "p50"))
            if predicted:
                told = statistics(one.predicted, name) if one.predicted is not None else None
                cells.append(units.seconds(told["p50"]) if told else units.UNKNOWN)
        cells += [_cell(m, "ttft", "p99"), _cell(m, "itl", "p99"), _cell(m, "e2e", "p50")]
        cells.append(units.digits(m.tokens_per_s))
        if predicted:
            speed = one.predicted.tokens_per_s if one.predicted is not None else None
            cells.append(units.digits(speed.mid) if speed else units.UNKNOWN)
        cells.append(units.digits(m.requests_per_s))
        if goodput:
            cells.append(units.digits(m.goodput or 0.0))
        failed = sum(m.errors.values()) - m.refused
        cells += [units.digits(m.concurrency_mean), f"{m.refused:,}", f"{failed:,}"]
        lines.append(Line(tuple(cells)))
    return Grid("Sweep", tuple(columns), tuple(lines))


def _cell(measured: Measured, name: LatencyName, statistic: str) -> str:
    found = measured.latencies.get(name)
    return units.UNKNOWN if found is None else units.seconds(getattr(found, statistic))


def records(session: Session, shown: Sequence[Shown]) -> dict[str, Any]:
    """Everything as JSON holds it; latencies in seconds."""
    points = [
        {
            "load": str(one.point.load),
            "name": one.point.name,
            "concurrency": one.point.load.concurrency,
            "rate": None if one.point.load.arrivals is None else one.point.load.arrivals.rate,
            "seed": one.point.load.seed,
            "measured": one.point.measured.record(),
            "predicted": None if one.predicted is None else one.predicted.model_dump(mode="json"),
            "warnings": doubts(one.point),
        }
        for one in shown
    ]
    s = session.settings
    objective = None if s.objective is None else s.objective.limits
    return {
        "url": s.url,
        "model": session.server.style.model,
        "endpoint": s.endpoint,
        "stream": s.stream,
        "objective": objective,
        "notes": list(session.server.notes),
        "points": points,
    }
