"""`models`, `devices`, `techniques` and `claims`: what there is. `pull` brings a model."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import complete, output
from twofold.cli.errors import complain

if TYPE_CHECKING:
    from twofold.techniques.pairs import Pair

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="The model (`twofold models` lists them).",
            autocompletion=complete.pullable,
            show_default=False,
        ),
    ],
) -> None:
    """Download a model into the cache, verified. Fetches nothing that is there already."""
    from twofold.models.pull import pull as fetch
    from twofold.models.registry import get_entry
    from twofold.models.transfer import progress_bar, silent

    entry = get_entry(name)
    if entry.terms:
        complain(f"{entry.title}: {entry.terms}", "note")
    with progress_bar() if sys.stderr.isatty() else nullcontext(silent) as progress:
        path = fetch(name, progress=progress)
    print(path)


def models(json: Json = False) -> None:
    """List models: architectures that can be predicted, and which of them can be pulled and run."""
    from twofold.models.listing import model_records
    from twofold.report import units

    records = model_records()
    if json:
        output.show_json(records)
        return

    def number(value: int | None) -> str:
        return units.UNKNOWN if value is None else f"{value:,}"

    def state(record: dict[str, Any]) -> str:
        return "here" if record["path"] else "can be pulled" if record["pull"] else ""

    rows = [
        (
            r["name"],
            r["family"] or units.UNKNOWN,
            units.si(r["parameters"], "").strip() if r["parameters"] else units.UNKNOWN,
            *(number(r[key]) for key in ("layers", "hidden", "max_context")),
            state(r),
        )
        for r in records
    ]
    headings = ("model", "family", "parameters", "layers", "hidden", "context", "weights")
    output.plain_table("Models", headings, rows, right=(2, 3, 4, 5))


def devices(json: Json = False) -> None:
    """List devices: real ones, and those that plans can be predicted on."""
    from twofold.devices.listing import device_records
    from twofold.report import units

    records = device_records()
    if json:
        output.show_json(records)
        return
    rows = [
        (
            r["name"],
            r["kind"],
            r["title"],
            units.si(r["memory_bytes"], "B") if r["memory_bytes"] else units.UNKNOWN,
            units.si(r["bandwidth"], "B/s") if r["bandwidth"] else units.UNKNOWN,
            _peak(r["peak"]),
            r["confidence"],
        )
        for r in records
    ]
    headings = ("device", "kind", "", "memory", "bandwidth", "peak", "confidence")
    output.plain_table("Devices", headings, rows, right=(3, 4, 5))


def _peak(peak: dict[str, float] | None) -> str:
    """The rate of the precision that models are served in."""
    from twofold.report import units

    for precision in ("bf16", "fp16", "fp32"):
        if peak and precision in peak:
            return f"{units.si(peak[precision], 'FLOP/s')} {precision}"
    return units.UNKNOWN


def techniques(
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Show which pairs work together, and why not.")
    ] = False,
    json: Json = False,
) -> None:
    """List techniques with their parameters; --pairs shows which of them work together."""
    if pairs:
        _pairs(json)
        return
    from twofold.techniques.listing import technique_records

    records = technique_records()
    if json:
        output.show_json(records)
        return
    rows = [
        (
            r["name"],
            r["summary"],
            ", ".join(r["seams"]),
            "yes" if r["lossless"] else "no",
            ", ".join(r["needs"]),
            ", ".join(f"{k}={_text(v)}" for k, v in r["params"].items()),
            r["source"],
        )
        for r in records
    ]
    headings = ("technique", "what it does", "seams", "lossless", "needs", "parameters", "source")
    output.plain_table("Techniques", headings, rows)


def _text(value: Any) -> str:
    return (
        ";".join(map(str, value))
        if isinstance(value, list)
        else str(value).lower()
        if value is None
        else str(value)
    )


def _pairs(json: bool) -> None:
    from twofold.techniques.pairs import all_pairs
    from twofold.techniques.registry import technique_names

    pairs = all_pairs()
    if json:
        fields = [
            {"first": p.first, "second": p.second, "allowed": p.allowed, "reason": p.reason} for p in pairs
        ]
        output.show_json(fields)
        return
    names = technique_names()
    by_names = {frozenset((p.first, p.second)): p for p in pairs}
    rows = [(one, *(_cell(by_names.get(frozenset((one, other)))) for other in names)) for one in names]
    output.plain_table("Pairs of techniques", ("", *names), rows)
    refused = [(f"{p.first} + {p.second}", p.reason) for p in pairs if not p.allowed]
    if refused:
        output.plain_table("Refused", ("pair", "why, and what to do instead"), refused)


def _cell(pair: Pair | None) -> str:
    return "" if pair is None else "yes" if pair.allowed else "no"


def claims(
    system: Annotated[
        str | None, typer.Argument(help="Only the claims of this technique or machine.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """The ledger: what each source claims, what comes out here, and whether the two agree. Recomputed every
    time."""
    from twofold.claims import ledger
    from twofold.claims.collect import all_claims

    groups = all_claims(system)
    total = sum(len(group.claims) for group in groups)
    rows: list[ledger.LedgerRow] = []
    with output.progress_bar() as progress:
        for group in groups:
            progress(f"claims of {group.system}", len(rows), total)
            rows += ledger.build_ledger([group])
    if json:
        output.show_json(ledger.to_records(rows))
    else:
        output.show(ledger.render(rows))
