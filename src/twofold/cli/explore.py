"""`explore`: which deployment is best under what has to hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import output
from twofold.cli.errors import complain
from twofold.cli.evaluate import Html, Json
from twofold.cli.plan_options import ENGINE, LOAD, MODEL
from twofold.cli.plans import Given, plan_options

REPORT = Path("twofold-explore.html")
_SEARCHED = ("device", "devices", "precision", "parallel.tp", "parallel.pp", "parallel.dp", "parallel.ep")


@plan_options(MODEL, LOAD, ENGINE, without=(*_SEARCHED, "techniques", "combinations"))
def explore(
    given: Given,
    plan_file: Annotated[
        Path, typer.Argument(help="A plan in YAML with a section `explore`.", show_default=False)
    ],
    json: Json = False,
    html: Html = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Run the winners that this machine can run, and measure them.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", help="Processes [default: all cores].", min=1, show_default=False),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Search on the Ray cluster at this address; 'auto' finds one, 'local' starts one.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Search devices, parallelism, limits and techniques for the best deployments of a plan.

    Candidates that cannot meet a limit are discarded by bounds, the others estimated, and the winners
    simulated in full. The report says why they won and what bound the others.
    """
    from twofold.explore.plan import Exploration, load_exploration

    found = load_exploration(plan_file)
    exploration = Exploration(given.plan(None, found.plan), found.explore)
    from twofold.explore.run import explore as search
    from twofold.jobs.recorded import check_behaviour
    from twofold.report import exploration as report
    from twofold.report.store import Store

    uses = tuple(exploration.explore.techniques)
    check_behaviour(exploration.plan.model_copy(update={"combinations": uses}))
    store = Store(notify=lambda message: complain(message, "warning"))
    with output.progress_bar() as progress:
        result = search(
            exploration, store=store, jobs=jobs, ray=_address(ray), run_here=confirm, progress=progress
        )
    if json:
        output.show_json(result.model_dump(mode="json"))
    else:
        output.show(report.render_terminal(result))
    path = html or (None if json else REPORT)
    if path is not None:
        report.write(result, path)
        complain(str(path.resolve()), "report")


def _address(ray: str | None) -> str | None:
    """What `explore.run` takes: None for no cluster, "" for one that is started here."""
    return "" if ray == "local" else ray
