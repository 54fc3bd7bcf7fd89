"""What the analyses say, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from twofold.analysis.attention_io import AttentionIO
from twofold.analysis.longctx import ContextCost, Sessions
from twofold.analysis.longctx_sweep import Row
from twofold.analysis.requirements import Phase, Requirement
from twofold.analysis.suitability import RESOURCES, Suitability, Trial
from twofold.analysis.use_cases import UseCase
from twofold.report import units
from twofold.report.grid import Align, Column, Grid, Line

_LEFT: Align = "left"


def requirement_grid(need: Requirement, model: str) -> Grid:
    """What each device must offer, by phase."""
    each = "each device" if need.devices > 1 else "the device"
    columns = (
        Column(f"{each} must", align=_LEFT),
        Column("prefill", units.seconds(need.prefill.seconds)),
        Column("decode", f"{units.seconds(need.decode.seconds)} a token"),
        Column("required"),
    )

    def line(name: str, unit: str, pick: str) -> Line:
        values = [getattr(phase, pick) for phase in need.phases]
        return Line((name, *(units.si(value, unit) for value in values), units.si(max(values), unit)))

    lines = [
        line(f"compute ({' and '.join(need.precisions)})", "FLOP/s", "flop_rate"),
        line("read memory at", "B/s", "bandwidth"),
        Line(("hold", "", "", units.si(need.held.total, "B"))),
    ]
    notes = [
        f"held: weights {units.si(need.held.weights, 'B')}, cache {units.si(need.held.cache, 'B')}, "
        "activations "
        f"{units.si(need.held.activations, 'B')}",
        "each figure alone is a necessary condition: it holds even if nothing else took time",
    ]
    if need.message_seconds is not None:
        lines += [
            line("send at", "B/s", "link_bandwidth"),
            Line(("send a message in", *map(_message, need.phases), units.seconds(need.message_seconds))),
        ]
    title = f"{need.use_case.title} on {model}, {_requests(need.batch)}, {_devices(need.devices)}"
    return Grid(title, columns, tuple(lines), (need.use_case.describe(), *notes))


def _message(phase: Phase) -> str:
    return units.UNKNOWN if phase.message_seconds is None else units.seconds(phase.message_seconds)


def _requests(batch: int) -> str:
    return "1 request at a time" if batch == 1 else f"{batch} requests at a time"


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def suitability_grid(found: Sequence[Suitability], use_case: UseCase) -> Grid:
    """How many of each device it takes, resource by resource and in all, and what falls short."""
    columns = (
        Column("device", align=_LEFT),
        *(Column(name, "devices") for name in RESOURCES[:3]),
        Column("all", "devices"),
        Column("TTFT", "predicted"),
        Column("TPOT", "predicted"),
        Column("confidence", align=_LEFT),
        Column("falls short", align=_LEFT),
    )
    lines = []
    for entry in found:
        enough = entry.enough(use_case)
        shown = enough or entry.closest(use_case)
        lines.append(
            Line(
                (
                    entry.device,
                    *(_count(entry.first(name)) for name in RESOURCES[:3]),
                    _count(enough.count if enough else None),
                    units.figure(shown.ttft),
                    units.figure(shown.tpot),
                    shown.confidence or units.UNKNOWN,
                    _shortage(shown, use_case),
                ),
                strong=enough is not None,
            )
        )
    notes = (
        "the smallest number of devices, in tensor parallel, whose datasheet offers enough of each "
        "resource; all: "
        "links too, and the predicted times within the objective",
        "falls short: how many times as much is needed, for the number of devices that comes closest; a time "
        "may where only the low part of its interval keeps the objective",
    )
    return Grid("Devices", columns, tuple(lines), notes)


def _shortage(trial: Trial, use_case: UseCase) -> str:
    """What keeps `trial` from its objective, or may."""
    if trial.refused:
        return f"{_devices(trial.count)}: {trial.refused}"
    short = ", ".join(f"{name} {units.ratio(times)}" for name, times in trial.short(use_case).items())
    if short:
        return f"{_devices(trial.count)}: {short}"
    return "".join(f"{' and '.join(names)} may" for names in [trial.doubtful(use_case)] if names)


def _count(value: int | None) -> str:
    return units.UNKNOWN if value is None else f"{value}"


def context_grid(rows: Sequence[Row], title: str, notes: Sequence[str]) -> Grid:
    """The costs of each context length."""
    columns = (
        Column("context", "tokens"),
        Column("cache", "per device"),
        Column("concurrency", "contexts"),
        Column("prefill"),
        Column("answer", "alone"),
        Column("answer", "of all that fit"),
        Column("switch", "out and in"),
        Column("sessions", "per hour"),
        Column("busy"),
        Column("limit", align=_LEFT),
    )
    lines = []
    for cost, found, prefill, answer in rows:
        lines.append(
            Line(
                (
                    f"{cost.context:,}",
                    units.si(cost.cache_bytes, "B"),
                    f"{cost.concurrency}",
                    units.figure(prefill),
                    units.figure(answer),
                    units.seconds(cost.decode_batch) if cost.concurrency else units.UNKNOWN,
                    units.UNKNOWN if cost.switch is None else units.seconds(cost.switch),
                    units.UNKNOWN if found is None else units.digits(found.per_hour),
                    units.UNKNOWN if found is None else units.percent(found.busy),
                    _limit(cost, found),
                )
            )
        )
    return Grid(title, columns, tuple(lines), tuple(notes))


def _limit(cost: ContextCost, found: Sessions | None) -> str:
    if cost.concurrency == 0:
        return "memory: not one fits"
    if found is None:
        return "host memory: cannot park the others"
    return found.bound + (", swapping" if found.swapping else "")


def attention_grid(rows: Sequence[AttentionIO], title: str, notes: Sequence[str]) -> Grid:
    """Traffic of one layer's attention by length of the prompt."""
    columns = (
        Column("context", "tokens"),
        Column("arithmetic", "FLOP"),
        Column("I/O bound"),
        Column("the engine's op", "counted"),
        Column("FlashAttention-2"),
        Column("", "× bound"),
        Column("FlashAttention"),
        Column("", "× bound"),
        Column("intensity", "at most, FLOP/byte"),
    )
    lines = tuple(
        Line(
            (
                f"{row.context:,}",
                units.si(row.flop, "FLOP"),
                units.si(row.bound, "B"),
                units.si(row.counted, "B"),
                units.si(row.flash_2, "B"),
                units.ratio(row.flash_2 / row.bound),
                units.si(row.flash, "B"),
                units.ratio(row.flash / row.bound),
                units.digits(row.intensity),
            )
        )
        for row in rows
    )
    return Grid(title, columns, lines, tuple(notes))
