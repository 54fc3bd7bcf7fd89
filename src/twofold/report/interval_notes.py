"""The intervals of a table of predictions in one line, so that its cells stay readable."""

from __future__ import annotations

from twofold.report import units
from twofold.report.schema import Result

_SHOWN = (("ttft", "TTFT"), ("tpot", "TPOT"), ("tokens_per_s", "speed"), ("energy_per_token", "energy"))


def interval_notes(results: list[Result]) -> list[str]:
    """One line with the intervals of what a table of predictions shows; none where they have none."""
    shown = [f"{heading} {text}" for name, heading in _SHOWN if (text := widest(results, name))]
    return [f"intervals: {', '.join(shown)}"] if shown else []


def widest(results: list[Result], name: str) -> str:
    """The widest interval that `results` have for a figure, relative to it: "−20/+31 %"; "" without any."""
    figures = [figure for r in results if (figure := r.figure(name)) is not None and not figure.is_exact]
    return units.interval(max(figures, key=lambda f: f.high / f.low)) if figures else ""
