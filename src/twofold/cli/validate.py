"""`validate`: every prediction for which a measurement is at hand, held against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import output
from twofold.cli.errors import FAILED, complain

if TYPE_CHECKING:
    from twofold.report.accuracy import Accuracy

DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Folder of measurements [default: $TWOFOLD_DATA, its subfolder `measured`].",
        show_default=False,
    ),
]


def validate(
    data: DataFolder = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="Only this group; may be given again.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
    plots: Annotated[
        Path | None, typer.Option("--plots", help="Write plots to this folder.", show_default=False)
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option("--points", help="Write every point to this CSV file.", show_default=False),
    ] = None,
    write_intervals: Annotated[
        bool,
        typer.Option("--write-intervals", help="Take the intervals of predictions from these residuals."),
    ] = False,
) -> None:
    """Hold predictions against measurements: those of a data folder, those recorded on this machine, and
    public figures that the package carries.

    Per group and quantity: mean, median and 90th percentile of the error, bias, and how often the interval of
    the prediction contained the measurement.
    """
    from twofold.validate.groups import GROUPS
    from twofold.validate.report import accuracy
    from twofold.validate.run import choose, collect, data_folder

    chosen = choose(group or (), GROUPS)
    folder = data_folder(data)
    with output.progress_bar() as progress:
        found = collect(folder, chosen, known=GROUPS, progress=progress)
    table = None
    if write_intervals:
        from twofold.validate.intervals import estimate
        from twofold.validate.write import write_table

        table = estimate(found.samples)
        complain(str(write_table(table)), "intervals")
    report = accuracy(found, GROUPS, table)
    if json:
        output.show_json(report.model_dump(mode="json"))
    else:
        _print(report)
    if points is not None:
        from twofold.validate.write import write_points

        write_points(found.samples, points)
        complain(f"{len(found.samples)} points in {points}", "note")
    if plots is not None:
        from twofold.validate.plots import write_plots

        for path in write_plots(found.samples, {g.NAME: g.TITLE for g in GROUPS}, plots):
            complain(str(path), "plot")
    if report.failed:
        raise typer.Exit(FAILED)


def _print(report: Accuracy) -> None:
    from twofold.report.accuracy import grid
    from twofold.report.table import render_grid

    if report.rows:
        output.show(render_grid(grid(report)))
    if not report.data:
        complain("no folder of measurements: --data or TWOFOLD_DATA names one", "note")
    for name, files in report.absent.items():
        complain(f"{name}: nothing to compare with; it reads {' and '.join(files)}", "note")
    for name, reasons in report.left_out.items():
        told = "; ".join(f"{count:,} ({reason})" for reason, count in reasons.items())
        complain(f"{name}: not predicted: {told}", "note")
    if report.unknown:
        complain(f"no group reads {', '.join(report.unknown)}", "note")
    for name, reason in report.failed.items():
        complain(f"{name}: {reason}")
