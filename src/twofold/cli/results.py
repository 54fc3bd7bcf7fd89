"""`results`: what was measured and predicted before. `schema`: what its JSON means. `plan`: what a plan
says."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import complete, output
from twofold.cli.errors import complain
from twofold.cli.keep import open_store
from twofold.cli.plans import Given, PlanFile, plan_options

if TYPE_CHECKING:
    from twofold.report.store import Stored

app = typer.Typer(help="List, show and export the results that are kept.", invoke_without_command=True)
plans = typer.Typer(help="Look at a plan without executing it.", no_args_is_help=True)

Kind = Annotated[str | None, typer.Option("--kind", help="Only 'run' or only 'predict'.", show_default=False)]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Only this model.", autocompletion=complete.models, show_default=False),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Only this device.", autocompletion=complete.devices, show_default=False),
]
Technique = Annotated[
    str | None,
    typer.Option(
        "--technique",
        help="Only with this technique.",
        autocompletion=complete.techniques,
        show_default=False,
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", help="At most so many, the newest.", show_default=False)
]


class Format(StrEnum):
    """How `results export` writes."""

    JSON = "json"
    CSV = "csv"


class Schema(StrEnum):
    """What `schema` can describe."""

    RESULT = "result"
    COMPARISON = "comparison"
    PLAN = "plan"


@app.callback()
def listing(
    context: typer.Context,
    kind: Kind = None,
    model: Model = None,
    device: Device = None,
    technique: Technique = None,
    limit: Limit = None,
) -> None:
    """List the results that are kept, newest first."""
    filters = _filters(kind, model, device, technique, limit)
    if context.invoked_subcommand is not None:
        if any(value is not None for value in filters.values()):
            raise ValueError(
                f"write the filters after {context.invoked_subcommand!r}: twofold results export --model …"
            )
        return
    store = open_store()
    found = store.find(**filters)
    if not found:
        complain(f"no results in {store.path}" + (" that match" if any(filters.values()) else ""), "note")
        return
    headings = (
        "id",
        "comparison",
        "when (UTC)",
        "kind",
        "model",
        "device",
        "techniques",
        "TTFT",
        "TPOT",
        "tokens/s",
    )
    output.plain_table(f"Results in {store.path}", headings, [_row(s) for s in found], right=(0, 1, 7, 8, 9))


@app.command()
def show(
    number: Annotated[int, typer.Argument(metavar="ID", help="The result's number.", show_default=False)],
    comparison: Annotated[
        bool, typer.Option("--comparison", help="ID is the number of a comparison.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a report with plots to this file.", show_default=False),
    ] = None,
) -> None:
    """Show one result, or one comparison, in full."""
    store = open_store()
    found = store.get_comparison(number) if comparison else store.get(number)
    if json:
        output.show_json(found.model_dump(mode="json"))
    else:
        from twofold.report import table
        from twofold.report.comparison import Comparison

        output.show(table.render(found) if isinstance(found, Comparison) else table.render_result(found))
    if html is not None:
        from twofold.report.html import write

        write(found, html)
        complain(str(html.resolve()), "report")


@app.command()
def export(
    form: Annotated[
        Format, typer.Option("--format", help="JSON with everything, or CSV with one row per result.")
    ] = Format.JSON,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write to this file instead of standard output.", show_default=False
        ),
    ] = None,
    kind: Kind = None,
    model: Model = None,
    device: Device = None,
    technique: Technique = None,
    limit: Limit = None,
) -> None:
    """Export results for other programs."""
    from twofold.report.export import to_csv, to_json

    found = open_store().find(**_filters(kind, model, device, technique, limit))
    text = to_csv(found) if form is Format.CSV else to_json(found) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
        complain(f"{len(found)} results in {out}", "note")


def schema(
    of: Annotated[Schema, typer.Argument(help="What to describe.")] = Schema.RESULT,
) -> None:
    """Print the JSON schema of what `run` and `predict` print (or `compare`, or of a plan)."""
    if of is Schema.PLAN:
        from twofold.plan import Plan

        output.show_json(Plan.model_json_schema())
    elif of is Schema.COMPARISON:
        from twofold.report.comparison import Comparison

        output.show_json(Comparison.model_json_schema(mode="serialization"))
    else:
        from twofold.report.schema import Result

        output.show_json(Result.model_json_schema(mode="serialization"))


@plans.command(name="show")
@plan_options()
def show_plan(
    given: Given,
    plan_file: PlanFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a plan as it was understood: the file, the options on top, every default, and what the engine
    derives."""
    import yaml

    from twofold.jobs.derived import derived_limits
    from twofold.jobs.recorded import check_behaviour

    plan = given.plan(plan_file)
    check_behaviour(plan)
    shown = {**plan.model_dump(mode="json"), "derived": derived_limits(plan)}
    if json:
        output.show_json(shown)
    else:
        print(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), end="")


def _filters(
    kind: str | None, model: str | None, device: str | None, technique: str | None, limit: int | None
) -> dict[str, Any]:
    if kind not in (None, "run", "predict"):
        raise ValueError(f"--kind is 'run' or 'predict', not {kind!r}")
    return {"kind": kind, "model": model, "device": device, "technique": technique, "limit": limit}


def _row(stored: Stored) -> tuple[str, ...]:
    from twofold.report import units

    r = stored.result

    def seconds(name: str) -> str:
        figure = r.figure(name)
        return units.UNKNOWN if figure is None else units.seconds(figure.mid)

    speed = r.figure("tokens_per_s")
    return (
        str(stored.id),
        "" if stored.comparison is None else str(stored.comparison),
        f"{r.created:%Y-%m-%d %H:%M}",
        r.kind,
        r.model,
        r.device,
        r.label,
        seconds("ttft"),
        seconds("tpot"),
        units.UNKNOWN if speed is None else units.digits(speed.mid),
    )
