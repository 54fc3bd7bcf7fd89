"""The tables of trade-offs: quality against bytes and speed, and where what does not pay here would."""

from __future__ import annotations

from twofold.report import units
from twofold.report.comparison import Comparison
from twofold.report.grid import Column, Grid, Line
from twofold.report.tradeoff import EVEN, Gain, Tradeoff, Trial

_NAME = Column("technique", align="left")
_OVER = (
    ("perplexity", "perplexity"),
    ("weights", "weights"),
    ("cache", "cache"),
    ("bytes", "all bytes"),
    ("ttft", "TTFT"),
    ("tpot", "TPOT"),
    ("tokens_per_s", "token/s"),
)
ON_FRONT = "●"


def tradeoff_grid(comparison: Comparison) -> Grid | None:
    """Each row over the baseline, and whether it is on the Pareto front. None where there is nothing to
    compare."""
    found = comparison.tradeoffs
    if len(found) < 2:
        return None
    columns = (
        _NAME,
        Column("#"),
        Column("KL", "nat/token"),
        Column("top-1", "agreement"),
        *(Column(heading, "vs. base") for _, heading in _OVER),
        Column("front"),
    )
    lines = tuple(_line(number, row) for number, row in enumerate(found))
    notes = [
        f"front {ON_FRONT}: no other row is as good in KL, all bytes and token/s and better in one of them"
        if any(row.on_front is not None for row in found)
        else "no front: quality was not measured",
        "bytes at the peak, per device; perplexity over the unmodified model's on the same text",
    ]
    return Grid("Quality against bytes and speed", columns, lines, tuple(notes))


def _line(number: int, row: Tradeoff) -> Line:
    cells = (
        row.label,
        str(number),
        units.UNKNOWN if row.kl_divergence is None else units.digits(row.kl_divergence),
        units.UNKNOWN if row.top1_agreement is None else units.percent(row.top1_agreement),
        *(_times(getattr(row, name)) for name, _ in _OVER),
        ON_FRONT if row.on_front else "",
    )
    return Line(cells, strong=number == 0)


def pays_grid(comparison: Comparison) -> Grid | None:
    """The rows that are slower or larger than the baseline here, or neither faster nor smaller, and where
    they are predicted to pay. None where there are none, or nothing was measured."""
    if comparison.baseline.measured is None:
        return None
    found = [row for row in comparison.tradeoffs if row.pays_at]
    if not found:
        return None
    trials = {row.label: comparison.trials_of(row) for row in comparison.rows}
    tried = [trial for row in found for trial in trials[row.label]]
    # A letter for each model with its load.
    places = {p: chr(ord("a") + i) for i, p in enumerate(dict.fromkeys(map(_place, tried)))}
    lines = tuple(
        Line(
            (
                row.label,
                _here(row),
                _times(row.tokens_per_s),
                _times(row.bytes),
                _elsewhere(row, trials[row.label], places),
            )
        )
        for row in found
    )
    columns = (
        _NAME,
        Column("here", align="left"),
        Column("token/s", "vs. base"),
        Column("all bytes", "vs. base"),
        Column("predicted to pay", align="left"),
    )
    notes = [f"within {EVEN * 100:.0f} % of the baseline, or within the range of repeats, counts as equal"]
    if tried:
        notes += [f"({letter}) {place}" for place, letter in places.items()]
        notes.append(
            f"tried on {', '.join(dict.fromkeys(t.device for t in tried))}, per device, with what was "
            "measured here of what depends on data; the best is named. What the sources claim on their own "
            "hardware is in the ledger (`twofold claims`)"
        )
    return Grid("What does not pay here, and where it would", columns, lines, tuple(notes))


def _place(trial: Trial) -> str:
    return f"{trial.model}, {trial.load}"


def _here(row: Tradeoff) -> str:
    words: list[str] = []
    for gain, better, worse in (("speed", "faster", "slower"), ("bytes", "smaller", "larger")):
        words += [better] * (gain in row.pays_in) + [worse] * (gain in row.loses_in)
    return ", ".join(words) or "as the baseline"


def _elsewhere(row: Tradeoff, trials: list[Trial], places: dict[str, str]) -> str:
    if not trials:
        return "not predicted elsewhere"
    told = {_told(gain, trial, places) for gain, trial in row.pays_at.items() if trial is not None}
    return "; ".join(sorted(told)) or "nowhere among those tried"


def _told(gain: Gain, trial: Trial, places: dict[str, str]) -> str:
    where = f"{trial.device} ({places[_place(trial)]})"
    if trial.alone:
        return f"on {where}, where the baseline does not fit"
    return f"{_times(trial.tokens_per_s if gain == 'speed' else trial.bytes)} {_UNIT[gain]} on {where}"


_UNIT: dict[Gain, str] = {"speed": "token/s", "bytes": "bytes"}


def _times(value: float | None) -> str:
    return units.UNKNOWN if value is None else units.ratio(value)
