"""The ledger as a page: a line for every system, then its rows under a heading of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import get_args

from twofold.claims.ledger import LedgerRow, Verdict, to_grid
from twofold.report.grid import Grid, Line
from twofold.report.table import grid_to_markdown, markdown

AS_ABOVE = "as above"


def to_page(rows: Sequence[LedgerRow]) -> str:
    """The summary of all systems and a section for each, in GitHub's Markdown."""
    return "\n\n".join((summary(rows), *(_section(found) for found in _by_system(rows).values())))


def summary(rows: Sequence[LedgerRow]) -> str:
    """One line for each system: its rows by verdict, and the ratios nearest to 1 and farthest from it."""
    lines = [
        (f"[{system}](#{system})", found[0].kind, *_counts(found), *_ends(found))
        for system, found in _by_system(rows).items()
    ]
    total = ("**all**", "", *(count and f"**{count}**" for count in _counts(rows)), "", "")
    heads = ("system", "", "rows", *get_args(Verdict), "nearest ratio", "farthest")
    return markdown(heads, [*lines, total])


def _by_system(rows: Sequence[LedgerRow]) -> dict[str, list[LedgerRow]]:
    found: dict[str, list[LedgerRow]] = {}
    for row in rows:
        found.setdefault(row.system, []).append(row)
    return found


def _counts(rows: Sequence[LedgerRow]) -> list[str]:
    by_verdict = [sum(row.verdict == verdict for row in rows) for verdict in get_args(Verdict)]
    return [str(len(rows)), *(str(count or "") for count in by_verdict)]


def _ends(rows: Sequence[LedgerRow]) -> tuple[str, str]:
    ratios = sorted((row.ratio for row in rows if row.ratio), key=lambda ratio: abs(math.log(ratio)))
    return (f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}") if ratios else ("", "")


def _section(rows: Sequence[LedgerRow]) -> str:
    """The rows of one system, without its name."""
    whole = to_grid(_without_repeats(rows))
    lines = tuple(Line(line.cells[1:]) for line in whole.lines)
    _, _, table = grid_to_markdown(Grid("", whole.columns[1:], lines)).partition("\n\n")
    sources = dict.fromkeys(row.source for row in rows)
    return f"### {rows[0].system}\n\n{table}\nSources: {'; '.join(sources)}."


def _without_repeats(rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """The rows, where a reason or a setting that is that of the row before is not said again."""
    told = [rows[0]]
    for before, row in pairwise(rows):
        if row.why == before.why:
            row = replace(row, why=AS_ABOVE, how="" if row.how == before.how else row.how)
        told.append(row)
    return told
