"""`run`, `predict` and `compare`: a plan measured here, predicted elsewhere, held against itself without
techniques."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import output
from twofold.cli.devices_compared import compare_on, only_known
from twofold.cli.errors import FAILED, MISTAKE, complain
from twofold.cli.keep import keep, open_store
from twofold.cli.plans import Given, PlanFile, plan_options

if TYPE_CHECKING:
    from twofold.plan import Plan
    from twofold.report.comparison import Comparison
    from twofold.report.schema import Result

Json = Annotated[bool, typer.Option("--json", help="Print JSON (see `twofold schema`).")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write a report with plots to this file.", show_default=False)
]

REPORT = Path("twofold-report.html")


@plan_options()
def run(given: Given, plan_file: PlanFile = None, json: Json = False, html: Html = None) -> None:
    """Execute a plan on this machine and measure it: speed, memory, and quality against the unmodified
    model."""
    plan = given.plan(plan_file)
    from twofold.jobs.recorded import check_behaviour
    from twofold.jobs.run import run_plan

    check_behaviour(plan)
    with output.progress_bar() as progress:
        result = run_plan(plan, progress=progress).result
    _show([result], json, one=True)
    keep(lambda store: store.save(result))
    _write(result, html)


@plan_options()
def predict(given: Given, plan_file: PlanFile = None, json: Json = False, html: Html = None) -> None:
    """Predict a plan on hardware that is not there. Needs no weights; nothing is computed.

    Where a technique depends on data, what the latest run of the same model and technique measured is used,
    else the technique's own figure, else --behaviour; the result says which.
    """
    plan = given.plan(plan_file)
    devices = _targets(plan, given)
    if html is not None and len(devices) > 1:
        raise ValueError(
            f"--html writes one prediction, and there are {len(devices)} devices; name one with --device"
        )
    from twofold.jobs.predict import label_of, predict_plan
    from twofold.jobs.recorded import Recorded, check_behaviour, find_recorded

    check_behaviour(plan)
    label_of(plan)  # a technique's wrong parameter is said before anything else
    try:
        recorded = find_recorded(plan, open_store())
    except ValueError as error:
        complain(f"{error}; predicting without what earlier runs recorded", "warning")
        recorded = Recorded()
    results, refused = [], []
    for device in devices:
        try:
            with output.progress_bar() as progress:
                found = predict_plan(plan, device, recorded=recorded.values, progress=progress)
        except ValueError as error:
            refused.append((device, error))
            continue
        results.append(recorded.name_in(found))
    if results or len(devices) > 1:
        _show(results, json, one=len(devices) == 1)
    for result in results:
        keep(lambda store, result=result: store.save(result))  # type: ignore[misc]
        if "parallel" in result.derived:
            complain(f"{result.device}: {result.derived['parallel']}", "note")
    if results:
        _write(results[0], html)
    if len(devices) == 1 and refused:
        raise refused[0][1]
    for device, reason in refused:
        complain(f"{device}: {reason}")
    if refused:
        raise typer.Exit(MISTAKE)


@plan_options()
def compare(
    given: Given,
    plan_file: PlanFile = None,
    json: Json = False,
    html: Html = None,
    here: Annotated[
        str | None,
        typer.Option(
            "--here",
            help="The modelled device that stands for this machine, or 'none' "
            "[default: this-cpu on the CPU, none on a GPU].",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            "--models", help="Compare devices instead: on these models, with commas.", show_default=False
        ),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            "--batches",
            help="Compare devices instead: with so many requests at once, with commas.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare techniques: the unmodified model, each technique alone, and the combinations that the plan
    names.

    Each is measured here, predicted for this machine (with the error) and predicted on the plan's devices.
    Without a plan it is the demo: six techniques on SmolLM2-135M. With --models or --batches, and for a model
    whose weights are not here, the plan's devices are compared instead: speed and energy of each, predicted.
    """
    if models or batches or only_known(given.plan(plan_file).model):
        chosen = given.plan(plan_file)
        named = _targets(chosen, given)
        for device in named:
            _known_device(device)
        if (own := _here(here, chosen)) is not None and own not in named:
            named.append(own)
        compare_on(chosen, named, models, batches, json=json, html=html or (None if json else REPORT))
        return
    default = None if plan_file is not None else _demo()
    plan = given.plan(plan_file, default)
    from twofold.jobs.compare import compare_plan, variants
    from twofold.jobs.predict import label_of
    from twofold.jobs.recorded import check_behaviour
    from twofold.models.find import find_checkpoint

    # What can be wrong is said before anything that takes long.
    check_behaviour(plan)
    for uses in variants(plan):
        label_of(plan.with_techniques(uses))
    for device in plan.devices:
        _known_device(device)
    find_checkpoint(plan.model)
    stand_in = _here(here, plan)
    with output.progress_bar() as progress:
        comparison = compare_plan(plan, predict_here=stand_in, progress=_by_row(progress))
    if json:
        output.show_json(comparison.model_dump(mode="json"))
    else:
        from twofold.report import table

        output.show(table.render(comparison))
    keep(lambda store: store.save_comparison(comparison))
    _write(comparison, html or (None if json else REPORT))
    failed = [row for row in comparison.rows if row.failed is not None]
    for row in failed:
        complain(f"{row.label}: {row.failed}")
    if failed:
        raise typer.Exit(FAILED)


def _demo() -> Plan:
    """The plan that comes with the package."""
    from importlib import resources

    from twofold.plan import Plan

    with resources.as_file(resources.files("twofold") / "demo.yaml") as path:
        return Plan.load(path)


def _targets(plan: Plan, given: Given) -> list[str]:
    """The devices to predict on: the option's, else the plan's list, else the plan's own device where it is
    modelled."""
    from twofold.devices.registry import is_real

    if "device" in given:
        return [plan.device]
    devices = list(plan.devices) or ([] if is_real(plan.device) else [plan.device])
    if not devices:
        raise ValueError(
            "no device to predict on: name one, as in --device h100-sxm (`twofold devices` lists them)"
        )
    return devices


def _known_device(name: str) -> None:
    from twofold.devices.registry import is_real, make_device

    if is_real(name):
        raise ValueError(f"devices: {name!r} is a real device; `compare` predicts on modelled ones")
    make_device(name)


def _here(asked: str | None, plan: Plan) -> str | None:
    """The modelled device that stands for this machine; this CPU is measured first where it was not yet."""
    from twofold.devices.catalog import THIS_CPU, this_cpu_path

    if asked == "none":
        return None
    name = asked or (THIS_CPU if plan.device == "cpu" else None)
    if name is None:
        complain(
            f"no prediction for this machine: --here names the modelled device that {plan.device!r} is",
            "note",
        )
    elif name == THIS_CPU and not this_cpu_path().is_file():
        complain(
            "this CPU is not calibrated yet: measuring it quickly (`twofold calibrate` is more thorough)",
            "note",
        )
        from twofold.measure.calibrate import calibrate

        with output.progress_bar() as progress:
            calibrate(quick=True, progress=progress)
    else:
        _known_device(name)
    return name


def _by_row(progress: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
    """`progress` whose lines begin with the row of the comparison that they belong to. Where there is no bar
    to see, each row is told as it begins."""
    row, start = "", perf_counter()

    def report(what: str, done: int, total: int) -> None:
        nonlocal row
        if what.startswith("comparing "):
            row = f"[{done + 1}/{total}] {what.removeprefix('comparing ')}: "
            if not sys.stderr.isatty():
                complain(f"{row}after {perf_counter() - start:.0f} s", "comparing")
        else:
            progress(row + what, done, total)

    return report


def _show(results: list[Result], json: bool, *, one: bool) -> None:
    if json:
        rows: list[Any] = [result.model_dump(mode="json") for result in results]
        output.show_json(rows[0] if one else rows)
        return
    from twofold.report import table

    for result in results:
        output.show(table.render_result(result))


def _write(shown: Comparison | Result, path: Path | None) -> None:
    if path is None:
        return
    from twofold.report import html

    html.write(shown, path)
    complain(str(path.resolve()), "report")
