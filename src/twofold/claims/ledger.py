"""The ledger: what each source claims, what comes out here, and whether the two agree.

Nothing here fits anything: a setup function reproduces the comparison of a claim with the source's own model,
baseline and sizes, and whatever it returns stands.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

from rich.console import RenderableType

from twofold.report import units
from twofold.report.grid import Column, Grid, Line
from twofold.report.table import render_grid
from twofold.techniques.base import Claim

Verdict = Literal["reproduced", "direction", "not reproduced", "not comparable"]
TOLERANCE = 0.15
SETUPS = "twofold.claims.setups"
_TIMES = ("×", "x")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a setup function returns: our figure as (low, high), why it is what it is, and how it was obtained
    ("predicted", "measured", with what)."""

    ours: tuple[float, float]
    why: str
    how: str

    def __post_init__(self) -> None:
        low, high = self.ours
        assert math.isfinite(low + high), f"a figure must be finite: {self.ours}"
        assert low <= high, f"a range needs low <= high: {self.ours}"


class Claims(NamedTuple):
    """The claims of one system: its name in the catalogue, and what it is ("technique", "device", "tool")."""

    system: str
    kind: str
    claims: Sequence[Claim]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One claim and its outcome. `ours` and `ratio` are None where nothing could be compared; `ratio` is
    our figure over the claimed one at the nearest ends of the two ranges, 1 where they overlap."""

    system: str
    kind: str
    claimed: tuple[float, float]
    ours: tuple[float, float] | None
    ratio: float | None
    verdict: Verdict
    why: str
    source: str
    figure: str
    unit: str
    how: str


RunSetup = Callable[[str, Claim], Outcome]


def resolve(system: str, claim: Claim) -> Outcome:
    """Run the setup of `claim`: a function in `twofold.claims.setups`, named "module:function", or
    "function" alone where the module has the system's name. It is called with the claim if it takes an
    argument."""
    assert claim.setup is not None, f"claim {claim.key} has no setup"
    module, colon, name = claim.setup.rpartition(":")
    if not colon:
        module = system.replace("-", "_")
    function = getattr(importlib.import_module(f"{SETUPS}.{module}"), name)
    outcome = function(claim) if inspect.signature(function).parameters else function()
    assert isinstance(outcome, Outcome), f"{claim.setup} returned {type(outcome).__name__}, not an Outcome"
    return outcome


def build_ledger(systems: Iterable[Claims], run_setup: RunSetup = resolve) -> list[LedgerRow]:
    """One row per claim, in the order given, the claims of a system together. Where a system claims the same
    figure several times, a row's figure also names what sets it apart.

    run_setup: takes the system's name and the claim, and runs the claim's setup. What a user could cause
    (ValueError, OSError: a model that is not downloaded, a plan that does not fit) becomes a row that says
    so; anything else is a bug and propagates.
    """
    return [
        replace(_row(group, claim, run_setup), figure=figure)
        for group in systems
        for claim, figure in zip(group.claims, told_apart(group.claims), strict=True)
    ]


def told_apart(claims: Sequence[Claim]) -> list[str]:
    """The figure of each claim; of those that say the same also the baseline, else the model, else the
    hardware, else the source, as far as it takes to tell them apart."""
    names = [claim.figure for claim in claims]
    for field, word in (("baseline", "against"), ("model", "with"), ("hardware", "on"), ("source", "from")):
        for name in [name for name, count in Counter(names).items() if count > 1]:
            same = [n for n, other in enumerate(names) if other == name]
            found = [getattr(claims[n], field) for n in same]
            if len(set(found)) > 1:
                for n, value in zip(same, found, strict=True):
                    names[n] = name if value in ("", "none") else f"{name}, {word} {value}"
    return names


def judge(claimed: tuple[float, float], ours: tuple[float, float], unit: str) -> tuple[Verdict, float | None]:
    """The verdict on our range against the claimed one, and their ratio (see `LedgerRow`).

    "reproduced": the ranges overlap, or their nearest ends are within 15 %. "direction": both on the same
    side of no effect, which is 1 for ratios (unit "×" or "x") and 0 for everything else. The ratio is None
    where it has no meaning (ends of different sign, or a claimed zero).
    """
    if ours[0] <= claimed[1] and claimed[0] <= ours[1]:
        return "reproduced", 1.0
    near, wanted = (ours[1], claimed[0]) if ours[1] < claimed[0] else (ours[0], claimed[1])
    ratio = near / wanted if wanted and near * wanted >= 0 else None
    if ratio is not None and 1 - TOLERANCE - 1e-9 <= ratio <= 1 + TOLERANCE + 1e-9:
        return "reproduced", ratio
    neutral = 1.0 if unit in _TIMES else 0.0
    above = claimed[0] > neutral and ours[0] > neutral
    below = claimed[1] < neutral and ours[1] < neutral
    return ("direction" if above or below else "not reproduced"), ratio


def to_records(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    """The rows for JSON: `system, kind, claimed, ours, ratio, verdict, why, source, figure, unit, how`."""
    return [asdict(row) for row in rows]


def to_grid(rows: Sequence[LedgerRow]) -> Grid:
    """The ledger as a table, with the count of each verdict."""
    columns = (
        Column("system", align="left"),
        Column("figure", align="left"),
        Column("claimed"),
        Column("ours"),
        Column("ratio"),
        Column("verdict", align="left"),
        Column("why", align="left"),
    )
    lines = tuple(
        Line(
            (
                row.system,
                row.figure,
                _range(row.claimed, row.unit),
                units.UNKNOWN if row.ours is None else _range(row.ours, row.unit),
                units.UNKNOWN if row.ratio is None else f"{row.ratio:.2f}",
                row.verdict,
                row.why + (f" ({row.how})" if row.how else ""),
            )
        )
        for row in rows
    )
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    note = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return Grid("Claims", columns, lines, (note,) if note else ())


def render(rows: Sequence[LedgerRow]) -> RenderableType:
    """The ledger for a rich console."""
    return render_grid(to_grid(rows))


def _row(group: Claims, claim: Claim, run_setup: RunSetup) -> LedgerRow:
    ours: tuple[float, float] | None = None
    ratio: float | None = None
    verdict: Verdict = "not comparable"
    how = ""
    if claim.setup is None:
        assert claim.why_not, f"claim {claim.key} has neither a setup nor a reason why not"
        why = claim.why_not
    else:
        try:
            outcome = run_setup(group.system, claim)
        except (ValueError, OSError) as error:
            why = f"the setup could not run: {error}"
        else:
            ours, why, how = outcome.ours, outcome.why, outcome.how
            verdict, ratio = judge(claim.claimed, ours, claim.unit)
    return LedgerRow(
        system=group.system,
        kind=group.kind,
        claimed=claim.claimed,
        ours=ours,
        ratio=ratio,
        verdict=verdict,
        why=why,
        source=claim.source,
        figure=claim.figure,
        unit=claim.unit,
        how=how,
    )


def _range(ends: tuple[float, float], unit: str) -> str:
    """ "1.2× to 1.6×" with a unit that hugs its number, "12 to 15 ms" otherwise; one number where both
    ends are equal."""
    low, high = (units.digits(end) for end in ends)
    both = low if low == high else f"{low} to {high}"
    if unit in _TIMES:
        return both.replace(" to ", "× to ") + "×"
    return f"{both} {unit}" if unit and unit != "1" else both
