"""What `explore` found, as tables and as a page."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.text import Text

from twofold.explore.objectives import TITLES
from twofold.explore.outcome import ExplorationResult, Winner
from twofold.report import units
from twofold.report.grid import Column, Grid, Line
from twofold.report.html import make_environment
from twofold.report.pareto import pictures
from twofold.report.schema import Figure
from twofold.report.table import render_grid

_CHECKED = (("tokens_per_s", "speed"), ("ttft", "TTFT"), ("tpot", "TPOT"), ("joules_per_token", "energy"))


def grids(result: ExplorationResult) -> list[Grid]:
    """Every table that has something to say, in reading order."""
    found = [_winners(result), _estimates(result)] if result.winners else []
    if any(winner.measured or winner.not_measured for winner in result.winners):
        found.append(_measured(result))
    return [*found, _constraints(result)]


def render_terminal(result: ExplorationResult) -> RenderableType:
    """Everything for a rich console."""
    parts: list[RenderableType] = [
        Text(_heading(result), style="bold"),
        Text(_pace(result), style="dim"),
        Text(""),
    ]
    parts += [Text(f"• {sentence}") for sentence in result.explanation]
    for grid in grids(result):
        parts += [Text(""), render_grid(grid)]
    return Group(*parts, *(Text(f"note: {note}", style="dim") for note in result.notes))


def render(result: ExplorationResult) -> str:
    """A complete HTML page."""
    drawn = [picture._replace(svg=Markup(picture.svg)) for picture in pictures(result)]
    return (
        make_environment()
        .get_template("exploration.html")
        .render(
            result=result,
            subtitle=f"{result.workload} · {_pace(result)}",
            confidences=sorted({winner.simulated.confidence for winner in result.winners}),
            grids=grids(result),
            pictures=drawn,
        )
    )


def write(result: ExplorationResult, path: Path) -> None:
    """Write the page to `path`; ValueError if that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(result), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot write the report to {path}: {error.strerror}") from error


def _heading(result: ExplorationResult) -> str:
    return f"{result.title}, {result.workload}"


def _pace(result: ExplorationResult) -> str:
    rate = result.judged / result.search_seconds if result.search_seconds else 0.0
    workers = "one process" if result.workers == 1 else f"{result.workers} processes"
    return (
        f"{result.judged:,} of {result.space:,} candidates judged in {units.seconds(result.search_seconds)} "
        f"({rate:,.0f}/s, {result.method}, {workers}): {result.estimated:,} estimated, {result.bounded:,} "
        f"discarded by bounds; {len(result.winners)} simulated, {units.seconds(result.seconds)} in all"
    )


def _name(result: ExplorationResult, winner: Winner) -> str:
    return f"{result.winners.index(winner) + 1}. {winner.label}"


def _winners(result: ExplorationResult) -> Grid:
    """The winners as simulated: objectives, latencies, memory, quality."""
    columns = (
        Column("simulated", align="left"),
        *(Column(TITLES[name]) for name in result.objectives),
        Column("price", "USD/h"),
        Column("TTFT", "p90"),
        Column("TPOT", "p90"),
        Column("memory", "per device"),
        Column("bound by"),
        Column("quality", align="left"),
    )
    lines = []
    for winner in result.winners:
        figures, memory = winner.figures, winner.simulated.memory
        capacity = "" if memory.capacity is None else f" of {units.si(memory.capacity.mid, 'B')}"
        bound, share = next(iter(winner.bounds.items()), (units.UNKNOWN, 0.0))
        cells = (
            _name(result, winner),
            *(
                _objective(winner.objectives[name], bare=name == "cost", interval=index == 0)
                for index, name in enumerate(result.objectives)
            ),
            units.UNKNOWN if winner.price_per_hour is None else units.digits(winner.price_per_hour),
            _seconds(figures.ttft.get("p90")),
            _seconds(figures.tpot.get("p90")),
            units.si(memory.total.mid, "B") + capacity,
            f"{bound} {share * 100:.0f} %",
            winner.quality,
        )
        lines.append(Line(cells, strong=winner is result.best))
    notes = ["cost in USD per million generated tokens"] if "cost" in result.objectives else []
    notes += [f"{_name(result, w)} breaks {'; '.join(w.broken)}" for w in result.winners if w.broken]
    by_note: dict[str, list[str]] = {}
    for number, winner in enumerate(result.winners, start=1):
        if winner.quality_note:
            by_note.setdefault(winner.quality_note, []).append(str(number))
    notes += [f"quality of {', '.join(numbers)}: {note}" for note, numbers in by_note.items()]
    if any(winner.unsure for winner in result.winners):
        notes.append(
            "percentages are intervals; the order of candidates whose intervals overlap is not certain"
        )
    return Grid("Winners", columns, tuple(lines), tuple(notes))


def _estimates(result: ExplorationResult) -> Grid:
    """What the search compared by beside what the full simulation says."""
    columns = [Column("estimated against simulated", align="left")]
    for _, heading in _CHECKED:
        columns += [Column(heading, "estimate"), Column("", "simulation"), Column("", "difference")]
    lines = []
    for winner in result.winners:
        cells = [_name(result, winner)]
        for name, _ in _CHECKED:
            ours, theirs = (_value(figures, name) for figures in (winner.estimate, winner.figures))
            key = f"{name}_mean" if name in ("ttft", "tpot") else name
            difference = winner.differences.get(key)
            cells += [
                _shown(name, ours),
                _shown(name, theirs),
                units.UNKNOWN if difference is None else units.signed_percent(difference),
            ]
        lines.append(Line(tuple(cells)))
    return Grid(
        "The estimate held against the simulation", tuple(columns), tuple(lines), ("TTFT and TPOT: means",)
    )


def _measured(result: ExplorationResult) -> Grid:
    """Winners that were run on this machine beside their simulation, and why the others were not."""
    columns = [Column("measured here", align="left")]
    names = (("tokens_per_s", "speed"), ("ttft", "TTFT"), ("tpot", "TPOT"))
    for _, heading in names:
        columns += [Column(heading, "measured"), Column("", "simulated"), Column("", "error")]
    lines = []
    for winner in result.winners:
        if winner.measured is None:
            lines.append(Line((_name(result, winner),), span=f"not run: {winner.not_measured}"))
            continue
        cells = [_name(result, winner)]
        for name, _ in names:
            measured, simulated = winner.measured.figure(name), winner.simulated.figure(name)
            known = measured is not None and simulated is not None and measured.mid
            error = simulated.mid / measured.mid - 1.0 if known and simulated and measured else None
            cells += [
                units.middle(measured, bare=True),
                units.middle(simulated, bare=True),
                units.UNKNOWN if error is None else units.signed_percent(error),
            ]
        lines.append(Line(tuple(cells)))
    return Grid("Winners run on this machine", tuple(columns), tuple(lines))


def _constraints(result: ExplorationResult) -> Grid:
    """What bound the candidates that did not win."""
    columns = (
        Column("constraint", align="left"),
        Column("candidates"),
        Column("share"),
        Column("what it says", align="left"),
        Column("closest", align="left"),
    )
    lines = [
        Line(
            (
                count.constraint.replace("_", " "),
                f"{count.candidates:,}",
                units.percent(count.candidates / max(1, result.judged)),
                count.meaning,
                count.nearest or units.UNKNOWN,
            )
        )
        for count in result.constraints
    ]
    met = sum(1 for row in result.candidates if not row.constraint)
    lines.append(
        Line(("none", f"{met:,}", units.percent(met / max(1, result.judged)), "meets all", units.UNKNOWN))
    )
    limits = ", ".join(
        f"{name.replace('_', ' ')} {units.seconds(value)}" for name, value in result.slo.items()
    )
    notes = (f"limits: {limits}",) if limits else ()
    return Grid("What bound the candidates", columns, tuple(lines), notes)


def _value(figures: object, name: str) -> float | None:
    found = getattr(figures, name)
    return found.get("mean") if isinstance(found, dict) else found


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return units.UNKNOWN
    if name == "tokens_per_s":
        return f"{units.digits(value)} token/s"
    return units.si(value, "J/token") if name == "joules_per_token" else units.seconds(value)


def _objective(value: Figure, *, bare: bool, interval: bool) -> str:
    text = units.digits(value.mid) if bare else units.middle(value)
    return text if value.is_exact or not interval else f"{text} {units.interval(value)}"


def _seconds(value: float | None) -> str:
    return units.UNKNOWN if value is None else units.seconds(value)
