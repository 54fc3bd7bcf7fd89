"""The tables of a comparison: what was measured, quality, what each row gives for what, predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median

from twofold.report import units
from twofold.report.comparison import Comparison, Row
from twofold.report.grid import Column, Grid, Line
from twofold.report.interval_notes import interval_notes, widest
from twofold.report.schema import Figure, Quality, Result
from twofold.report.tradeoff_grids import pays_grid, tradeoff_grid


def speedup(row: Row, baseline: Row, device: str | None = None) -> float | None:
    """Generated tokens per second over the baseline's, None where either is unknown.

    On `device` as predicted; without one on this machine: measured, in turn with the row where it was, or
    predicted where the baseline was not measured.
    """
    if device is not None:
        ours, base = row.predicted_elsewhere.get(device), baseline.predicted_elsewhere.get(device)
    elif baseline.measured:
        ours, base = row.measured, row.beside or baseline.measured
    else:
        ours, base = row.predicted_here, baseline.predicted_here
    return _speed_ratio(ours, base)


def speedup_error(row: Row, baseline: Row) -> float | None:
    """Relative error of the speed over the baseline's as predicted for this machine: what is left of the
    error where the machine is slower than when it was calibrated. None where one of the four speeds is
    unknown."""
    predicted = _speed_ratio(row.predicted_here, baseline.predicted_here)
    found = _speed_ratio(row.measured, row.beside or baseline.measured)
    return predicted / found - 1 if predicted is not None and found else None


def median_speedup_error(comparison: Comparison) -> float | None:
    """Median over rows of the size of `speedup_error`; None where no row has one."""
    found = [e for row in comparison.rows if (e := speedup_error(row, comparison.baseline)) is not None]
    return median(map(abs, found)) if found else None


def _speed_ratio(ours: Result | None, base: Result | None) -> float | None:
    if not (ours and base and ours.tokens_per_s and base.tokens_per_s and base.tokens_per_s.mid):
        return None
    return ours.tokens_per_s.mid / base.tokens_per_s.mid


def measured(comparison: Comparison) -> Grid | None:
    """What was measured on this machine: speed, memory by part, achieved bandwidth and FLOP/s. None if
    nothing was."""
    if not any(row.measured for row in comparison.all_rows):
        return None
    title = f"Measured on {comparison.device}"
    return _speed_and_memory(comparison, title, lambda row: row.measured, units.spread)


def _speed_and_memory(
    comparison: Comparison,
    title: str,
    pick: Callable[[Row], Result | None],
    show: Callable[..., str],
) -> Grid:
    """Speed, memory by part, achieved bandwidth and FLOP/s of the result that `pick` takes of each row. show:
    writes a figure."""
    rows = comparison.all_rows
    picked = [result for result in map(pick, rows) if result is not None]
    energy = any(result.energy_per_token for result in picked)
    columns = [
        _NAME,
        Column("TTFT"),
        Column("TPOT"),
        Column("speed", "token/s"),
        Column("", "vs. base"),
        Column("weights"),
        Column("cache"),
        Column("total"),
        Column("read+write", "GB/s"),
        Column("compute", "GFLOP/s"),
    ]
    if energy:
        columns.append(Column("energy", "per token"))

    def cells(row: Row) -> tuple[str, ...]:
        r = pick(row)
        if r is None:
            return (units.UNKNOWN,) * (len(columns) - 1)
        gain = speedup(row, comparison.baseline)
        texts = [
            show(r.ttft),
            show(r.tpot),
            show(r.tokens_per_s, bare=True),
            units.UNKNOWN if gain is None else units.ratio(gain),
            show(r.memory.weights),
            show(r.memory.cache),
            show(r.memory.total),
            show(r.achieved_gb_s, bare=True),
            show(r.achieved_gflop_s, bare=True),
        ]
        return tuple(texts + ([show(r.energy_per_token)] if energy else []))

    return Grid(title, tuple(columns), _lines(rows, cells), tuple(_missing_notes(picked)))


def quality(comparison: Comparison) -> Grid | None:
    """How far each row's output is from the unmodified model's. None if no quality was measured."""
    rows = [r for r in comparison.all_rows if r.measured and r.measured.quality]
    if not rows:
        return None
    lengths = sorted({n for r in rows for n in _quality(r).passkey})
    columns = (
        _NAME,
        Column("KL", "nat/token"),
        Column("top-1", "agreement"),
        Column("perplexity"),
        Column("", "vs. base"),
        *(Column("" if i else "passkey", f"at {n:,}") for i, n in enumerate(lengths)),
    )

    def cells(row: Row) -> tuple[str, ...]:
        q = _quality(row)
        change = (
            units.UNKNOWN
            if not (q.perplexity and q.perplexity_baseline and q.perplexity_baseline.mid)
            else f"{(q.perplexity.mid / q.perplexity_baseline.mid - 1) * 100:+.1f} %"
        )
        return (
            units.spread(q.kl_divergence, bare=True),
            _share(q.top1_agreement),
            units.spread(q.perplexity, bare=True),
            change,
            *(_share(q.passkey.get(n)) for n in lengths),
        )

    measured_rows = {id(r) for r in rows}
    without = [r.label for r in comparison.all_rows if not r.without_results and id(r) not in measured_rows]
    tokens = sorted({_quality(r).tokens for r in rows})
    sources = sorted({_quality(r).source for r in rows if _quality(r).source})
    notes = [
        f"on {' / '.join(f'{n:,}' for n in tokens)} tokens" + (f" of {', '.join(sources)}" if sources else "")
    ]
    notes += ["passkey: share of keys retrieved from prompts of that many tokens"] if lengths else []
    notes += [f"quality not measured: {', '.join(without)}"] if without else []
    return Grid("Quality against the unmodified model", columns, _lines(rows, cells), tuple(notes))


def predicted_here(comparison: Comparison) -> Grid | None:
    """The predictions for this machine, each with its error where there is a measurement. None if there
    are none."""
    rows = comparison.all_rows
    found = [row.predicted_here for row in rows if row.predicted_here]
    if not found:
        return None
    title = f"Predicted on {comparison.device}"
    told = [f"confidence: {_confidences(found)}"]
    told += [f"{row.label} is not predicted: {row.refused_here}" for row in rows if row.refused_here]
    if not any(row.errors for row in rows):
        grid = _speed_and_memory(comparison, title, lambda row: row.predicted_here, units.middle)
        return replace(grid, notes=(*told, *interval_notes(found), *grid.notes))
    names = (("ttft", "TTFT"), ("tpot", "TPOT"), ("tokens_per_s", "speed"))
    columns = [_NAME]
    for name, heading in names:
        columns += [
            Column(heading, "token/s" if name == "tokens_per_s" else "predicted"),
            Column("", "error"),
        ]

    def cells(row: Row) -> tuple[str, ...]:
        texts = []
        for name, _ in names:
            predicted = row.predicted_here.figure(name) if row.predicted_here else None
            error = row.errors.get(name)
            texts += [
                units.middle(predicted, bare=True),
                units.UNKNOWN if error is None else units.signed_percent(error),
            ]
        return tuple(texts)

    medians = [
        f"{heading} {error * 100:.0f} %"
        for name, heading in names
        if (error := comparison.median_error(name)) is not None
    ]
    ratios = median_speedup_error(comparison)
    medians += [f"speed over the baseline's {ratios * 100:.0f} %"] if ratios is not None else []
    notes = (*told, *interval_notes(found), f"median absolute error: {', '.join(medians)}")
    return Grid(title, tuple(columns), _lines(rows, cells), notes)


def predicted_elsewhere(comparison: Comparison) -> Grid | None:
    """The predictions for the other devices: tokens/s, and how it compares with that device's own
    baseline. None if there are none."""
    rows, devices = comparison.all_rows, comparison.devices
    if not devices:
        return None
    columns = [_NAME]
    for device in devices:
        columns += [Column(device, "token/s"), Column("", "vs. base")]
    refusals: dict[str, list[str]] = {}

    def cells(row: Row) -> tuple[str, ...]:
        texts: list[str] = []
        for device in devices:
            if device in row.refused_elsewhere:
                refusals.setdefault(f"{device} refuses {{}}: {row.refused_elsewhere[device]}", []).append(
                    row.label
                )
                texts += ["refused", ""]
                continue
            result = row.predicted_elsewhere.get(device)
            gain = speedup(row, comparison.baseline, device)
            texts += [
                units.middle(result.tokens_per_s if result else None, bare=True),
                units.UNKNOWN if gain is None else units.ratio(gain),
            ]
        return tuple(texts)

    lines = _lines(rows, cells)
    labels: dict[str, list[str]] = {}
    spreads = False
    for device in devices:
        found = [r.predicted_elsewhere[device] for r in rows if device in r.predicted_elsewhere]
        spread = widest(found, "tokens_per_s")
        labels.setdefault(_confidences(found) or "none", []).append(f"{device} {spread}".rstrip())
        spreads = spreads or bool(spread)
    told = "; ".join(f"{found}: {', '.join(on)}" for found, on in labels.items())
    notes = [f"confidence{' and interval of speed' if spreads else ''}: {told}"]
    notes += [text.format(", ".join(who)) for text, who in refusals.items()]
    return Grid("Predicted on other devices", tuple(columns), lines, tuple(notes))


def all_grids(comparison: Comparison) -> list[Grid]:
    """Every table that has something to say, in reading order."""
    made = (
        measured(comparison),
        quality(comparison),
        tradeoff_grid(comparison),
        pays_grid(comparison),
        predicted_here(comparison),
        predicted_elsewhere(comparison),
    )
    grids = [grid for grid in made if grid is not None]
    if not grids and any(row.without_results for row in comparison.all_rows):
        refused = [row for row in comparison.all_rows if row.without_results]
        return [
            Grid("Nothing to run", (_NAME, Column("reason", align="left")), _lines(refused, lambda _: ()))
        ]
    for index in range(1, len(grids)):  # a reason for a refusal is worth reading once
        grids[index] = replace(grids[index], lines=tuple(x for x in grids[index].lines if x.span is None))
    return grids


_NAME = Column("technique", align="left")


def _lines(rows: list[Row], cells: Callable[[Row], tuple[str, ...]]) -> tuple[Line, ...]:
    """One line per row; the first (the baseline) is strong; a row without results says why instead."""
    return tuple(
        Line((row.label,), span=row.without_results)
        if row.without_results is not None
        else Line((row.label, *cells(row)), strong=index == 0)
        for index, row in enumerate(rows)
    )


def _share(value: Figure | None) -> str:
    return units.UNKNOWN if value is None else units.percent(value.mid)


def _quality(row: Row) -> Quality:
    assert row.measured is not None
    assert row.measured.quality is not None
    return row.measured.quality


def _confidences(results: list[Result]) -> str:
    return ", ".join(sorted({r.confidence for r in results}))


def _missing_notes(results: list[Result]) -> list[str]:
    """Why figures are unknown, each reason once."""
    reasons: dict[str, dict[str, None]] = {}
    for result in results:
        for name, why in result.missing.items():
            if name != "quality":
                reasons.setdefault(why, {})[name] = None
    return [f"no {', '.join(names).replace('_', ' ')}: {why}" for why, names in reasons.items()]
