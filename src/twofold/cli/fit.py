"""`fit`: the parameters of a generation of devices from measured times of operators."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import output
from twofold.cli.errors import complain
from twofold.cli.validate import DataFolder

if TYPE_CHECKING:
    from twofold.fit.fit import Errors, Fit


def fit(
    data: DataFolder = None,
    generation: Annotated[
        list[str] | None,
        typer.Option("--generation", help="Only this generation; may be given again.", show_default=False),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Store the parameters in the generation's file.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Write the files to this folder instead of the package.", show_default=False
        ),
    ] = None,
    starts: Annotated[int, typer.Option("--starts", help="Places to search from.", min=1)] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print the parameters and errors as JSON.")] = False,
) -> None:
    """Fit what a generation of devices reaches of its peaks to measured times of its operators.

    Half of the points of each table train: every other number of tokens or rows. The error is printed for
    those and for the others. Devices of which only the datasheet is known use the same parameters.

    Tables: linear-ops-GPU-MODEL.csv, matmul-, gelu-, softmax-, layernorm-GPU.csv, products-GPU.csv.
    """
    from twofold.fit.choose import fits
    from twofold.fit.write import write as store
    from twofold.validate.run import data_folder

    folder = data_folder(data)
    if folder is None:
        raise ValueError("no measurements: name their folder with --data or in TWOFOLD_DATA")
    with output.progress_bar() as progress:
        found = fits(folder, generation or (), starts=starts, progress=progress)
    if json:
        output.show_json([asdict(one) for one in found])
    else:
        for one in found:
            _print(one)
    if write or out is not None:
        for one in found:
            complain(str(store(one, out)), "written")


def _print(fit: Fit) -> None:
    from twofold.fit.parameters import PARAMETERS

    rows = []
    for path, value in fit.after.items():
        parameter = PARAMETERS[path]
        rows.append((path, parameter.write(fit.before[path]), parameter.write(value), parameter.meaning))
    output.plain_table(
        f"Generation {fit.generation}", ("parameter", "was", "fitted", "meaning"), rows, right=(1, 2)
    )
    lines = [
        (
            row.source if not row.operation else "",
            row.operation or "all",
            *_cells(row.fitted),
            *_cells(row.held_out),
        )
        for row in fit.rows
    ]
    columns = ("table", "operation", "fitted", "MAPE", "bias", "held out", "MAPE", "p90", "bias")
    trimmed = [(*line[:4], line[5], line[6], line[7], line[8], line[9]) for line in lines]
    output.plain_table("Errors", columns, trimmed, right=tuple(range(2, 9)))


def _cells(errors: Errors | None) -> tuple[str, str, str, str]:
    """Points, MAPE, p90 and bias."""
    if errors is None:
        return ("0", "", "", "")
    return (str(errors.points), f"{errors.mape:.1%}", f"{errors.p90:.1%}", f"{errors.bias:+.1%}")
