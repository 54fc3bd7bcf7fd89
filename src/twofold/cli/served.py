"""What `bench serve` does once a server was measured: predict the same load, keep it, print it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from twofold.cli import output
from twofold.cli.errors import complain
from twofold.cli.keep import keep, open_store

if TYPE_CHECKING:
    from twofold.loadgen.report import Shown
    from twofold.loadgen.session import Point, Session, Settings
    from twofold.models.tensors import Tokenizer
    from twofold.plan import Plan
    from twofold.report.schema import Result


def predict(session: Session, here: str | None, tokenizer: tuple[Tokenizer, str] | None) -> list[Shown]:
    """Each point with its prediction, where there can be one; and the server's results in the database."""
    from twofold.loadgen.report import Shown

    about, alone = session.server.about, [Shown(point) for point in session.points]
    if about is None:
        complain("no prediction: only a server of this package tells its plan", "note")
        return alone
    from twofold.loadgen.prediction import predict_point, served_plan

    plan = served_plan(about)
    device = _stand_in(here, plan, about["replicas"], session.settings)
    known = None if tokenizer is None else tokenizer[0]
    shown = []
    for point in session.points:
        predicted: Result | None = None
        if device is not None and point.measured.completed:
            try:
                with output.progress_bar() as progress:
                    predicted = predict_point(plan, device, point, known, session.settings.endpoint, progress)
            except ValueError as error:  # what was measured is worth showing all the same
                complain(f"{point.name}: no prediction: {error}", "warning")
        shown.append(Shown(point, predicted))
        _keep(session, point)
    return shown


def check_stand_in(asked: str | None) -> None:
    """ValueError where --here names no modelled device; said before anything is measured."""
    if asked is None or asked == "none":
        return
    from twofold.devices.registry import is_real, make_device

    if is_real(asked):
        raise ValueError(f"--here {asked}: a real device is measured; name the modelled one that it is")
    make_device(asked)


def _stand_in(asked: str | None, plan: Plan, replicas: int, settings: Settings) -> str | None:
    """The modelled device on which the server's plan is predicted; None, with a note, where there is none."""
    from twofold.devices.catalog import THIS_CPU, this_cpu_path
    from twofold.loadgen.connection import is_local

    if asked is not None:
        return None if asked == "none" else asked
    if replicas > 1:
        why = f"one engine that has its machine for itself is predicted, and {replicas} share this one"
    elif not is_local(settings.url):
        why = "the server is on another machine; --here names the modelled device that it is"
    elif plan.device != "cpu":
        why = f"--here names the modelled device that {plan.device!r} is"
    elif not this_cpu_path().is_file():
        why = "this CPU is not calibrated; run `twofold calibrate`"
    else:
        return THIS_CPU
    complain(f"no prediction: {why}", "note")
    return None


def _keep(session: Session, point: Point) -> None:
    """Keep a load on a server of ours on this machine with the results of `run`."""
    from twofold.loadgen.connection import is_local
    from twofold.loadgen.saving import as_result

    about = session.server.about
    assert about is not None
    if not is_local(session.settings.url):
        complain("not kept: results are of this machine, and the server is on another", "note")
        return
    folder = open_store().path.parent / "traces"
    try:
        result = as_result(about, point, folder)
    except ValueError as error:
        complain(f"{point.name}: not kept with the results: {error}", "note")
        return
    keep(lambda store: store.save(result))


def show(session: Session, shown: list[Shown], json: bool, html: Path | None) -> None:
    """Print tables or JSON, write the page; what makes figures doubtful goes to standard error."""
    from twofold.loadgen import report
    from twofold.loadgen.doubts import doubts
    from twofold.report import page
    from twofold.report.table import render_grid

    for note in session.server.notes:
        complain(note, "note")
    for point in session.points:
        for doubt in doubts(point):
            complain(doubt, "warning")
    grids = report.grids(session, shown)
    if json:
        output.show_json(report.records(session, shown))
    else:
        for grid in grids:
            output.show(render_grid(grid))
    if html is not None:
        from twofold.loadgen.pictures import pictures

        subtitle = f"{session.server.style.model} at {session.settings.url}"
        page.write(html, "A server under load", subtitle, grids, pictures(shown))
        complain(str(html.resolve()), "report")
