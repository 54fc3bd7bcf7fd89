"""The tables of a single result: figures with intervals and percentiles, memory, quality, ops, behaviour,
counters."""

from __future__ import annotations

from collections.abc import Iterator

from twofold.report import units
from twofold.report.grid import Column, Grid, Line
from twofold.report.schema import FIGURES, Result

_NAMES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "e2e": "end to end",
    "tokens_per_s": "generation",
    "prefill_tokens_per_s": "prefill",
    "achieved_gb_s": "bytes read and written",
    "achieved_gflop_s": "arithmetic",
    "energy_per_token": "energy per token",
}


def result_grids(result: Result) -> list[Grid]:
    """Every table that `result` has something to say for, in reading order."""
    return [_figures(result), _memory(result), *_quality(result), *_breakdown(result), *_behaviour(result)]


def value_text(value: object) -> str:
    """A parameter, counter, behaviour or derived default as text."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        return f"{value:,.0f}" if whole else units.digits(value)
    if isinstance(value, list):
        return ", ".join(value_text(v) for v in value)
    return str(value)


def _figures(result: Result) -> Grid:
    lines = []
    for name in FIGURES:
        if name == "quality":
            continue
        figure = result.figure(name)
        if figure is None:
            lines.append(Line((_NAMES[name],), span=f"unknown: {result.missing[name]}"))
            continue
        spread = {str(key): value for key, value in result.percentiles.items()}.get(name, {})
        tail = (units.middle(spread[p]) if p in spread else "" for p in ("p50", "p90", "p99"))
        lines.append(Line((_NAMES[name], units.figure(figure), *tail)))
    columns = (Column("", align="left"), Column("mean"), Column("p50"), Column("p90"), Column("p99"))
    word = "Measured" if result.kind == "run" else "Predicted"
    notes = [f"confidence: {result.confidence}", *([result.intervals] if result.intervals else [])]
    return Grid(f"{word} on {result.device}", columns, tuple(lines), tuple(notes))


def _memory(result: Result) -> Grid:
    memory = result.memory
    lines = []
    for part in ("weights", "cache", "activations", "other", "total", "unaccounted", "capacity"):
        figure = getattr(memory, part)
        if figure is None or (part == "other" and figure.mid == 0):
            continue
        share = (
            f"{figure.mid / memory.total.mid * 100:.0f} %" if memory.total.mid and part != "capacity" else ""
        )
        lines.append(Line((part, units.figure(figure), share), strong=part == "total"))
    columns = (Column("part", align="left"), Column("bytes"), Column("of the total"))
    return Grid("Memory at the peak, per device", columns, tuple(lines))


def _quality(result: Result) -> Iterator[Grid]:
    quality = result.quality
    if quality is None:
        return
    rows = [
        ("KL divergence, nat per token", quality.kl_divergence, False),
        ("top-1 agreement", quality.top1_agreement, True),
        ("perplexity", quality.perplexity, False),
        ("perplexity of the unmodified model", quality.perplexity_baseline, False),
    ]
    rows += [
        (f"passkey at {length:,} tokens", score, True) for length, score in sorted(quality.passkey.items())
    ]
    lines = tuple(
        Line((name, units.percent(figure.mid) if share else units.figure(figure, bare=True)))
        for name, figure, share in rows
        if figure is not None
    )
    note = f"on {quality.tokens:,} tokens" + (f" of {quality.source}" if quality.source else "")
    yield Grid(
        "Quality against the unmodified model", (Column("", align="left"), Column("value")), lines, (note,)
    )


def _breakdown(result: Result) -> Iterator[Grid]:
    if not result.breakdown:
        return
    columns = (
        Column("kind of op", align="left"),
        Column("calls"),
        Column("time"),
        Column("share"),
        Column("GFLOP/s"),
        Column("GB/s"),
        Column("FLOP/byte"),
        Column("limited by", align="left"),
    )
    lines = []
    for op in sorted(result.breakdown, key=lambda op: -op.seconds):
        rate = [
            f"{units.digits(x / op.seconds / 1e9)}" if op.seconds else units.UNKNOWN
            for x in (op.flop, op.bytes)
        ]
        intensity = units.digits(op.flop / op.bytes) if op.bytes else units.UNKNOWN
        share = f"{op.share * 100:.1f} %"
        lines.append(
            Line((op.kind, f"{op.calls:,}", units.seconds(op.seconds), share, *rate, intensity, op.bound))
        )
    yield Grid("Time by kind of op", columns, tuple(lines))


def _behaviour(result: Result) -> Iterator[Grid]:
    if result.behaviour:
        lines = [
            Line((name, value_text(b.value), f"{b.source}: {b.note}" if b.note else b.source))
            for name, b in result.behaviour.items()
        ]
        columns = (Column("behaviour", align="left"), Column("value"), Column("source", align="left"))
        yield Grid("What depends on the data", columns, tuple(lines))
    counted = [
        Line((who, key, value_text(v))) for who, found in result.counters.items() for key, v in found.items()
    ]
    if counted:
        columns = (Column("of", align="left"), Column("counter", align="left"), Column("value"))
        yield Grid("Counters", columns, tuple(counted))
