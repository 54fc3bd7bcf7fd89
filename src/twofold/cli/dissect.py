"""`breakdown` and `measure`: where a model's time goes, and how a machine bears it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from twofold.cli import output, read
from twofold.cli.errors import complain
from twofold.cli.plan_options import ENGINE, LOAD, MODEL
from twofold.cli.plans import Given, PlanFile, plan_options

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write a report with plots to this file.", show_default=False)
]
_ONE_BATCH = (
    "workload.requests",
    "workload.rate",
    "workload.prompts",
    "workload.trace",
    "workload.text",
    "workload.seed",
    "engine.max_num_seqs",
    "engine.max_num_batched_tokens",
    "engine.prefix_caching",
    "engine.max_context",
    "combinations",
    "behaviour",
)


@plan_options(MODEL, LOAD, ENGINE, without=_ONE_BATCH)
def breakdown(given: Given, plan_file: PlanFile = None, json: Json = False, html: Html = None) -> None:
    """What each module of a model takes in prefill and in decoding: embedding, QKV, rotation, attention,
    output projection, norms, MLP, LM head, sampling, host.

    Measured on device cpu, where the model's weights are at hand, and predicted for the same steps on the
    modelled devices (--devices; this-cpu where it was calibrated). With a modelled --device, predicted alone.
    """
    from twofold.devices.catalog import THIS_CPU, this_cpu_path
    from twofold.jobs.breakdown import breakdown_plan

    plan = given.plan(plan_file)
    devices = list(plan.devices)
    if not devices and plan.device == "cpu" and this_cpu_path().is_file():
        devices = [THIS_CPU]
    with output.progress_bar() as progress:
        found = breakdown_plan(plan, devices, progress)
    from twofold.report import breakdown as report
    from twofold.report import page
    from twofold.report.table import render_grid

    grids = [report.grid(found, phase) for phase in range(len(found[0].phases))]
    if json:
        output.show_json(report.records(found))
    else:
        for grid in grids:
            output.show(render_grid(grid))
    if html is not None:
        load = plan.workload
        subtitle = f"{plan.model}, {load.concurrency or 1} × ({load.prompt} + {load.output}) tokens"
        page.write(html, "Time by module", subtitle, grids, [report.picture(found)])
        complain(str(html.resolve()), "report")


@plan_options(without=("devices", "combinations", "behaviour", "workload.requests", "workload.rate"))
def measure(
    given: Given,
    plan_file: PlanFile = None,
    duration: Annotated[
        str | None,
        typer.Option("--duration", help="How long: 60s, 300 [default: 30s].", show_default=False),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", help="How many requests, instead.", show_default=False)
    ] = None,
    interval: Annotated[str, typer.Option("--interval", help="Time between readings of the sensors.")] = "1s",
    json: Json = False,
    html: Html = None,
) -> None:
    """Keep a model busy on this machine and watch: tokens/s over time, memory, energy (RAPL, battery),
    temperature, clocks, as far as the system tells.

    What cannot be read is said with the reason; energy is then estimated from the prediction for this-cpu,
    and labelled so.
    """
    from twofold.jobs.sustained import measure_sustained

    seconds = read.seconds(duration)
    if seconds is None and requests is None:
        seconds = 30.0
    plan = given.plan(plan_file)
    with output.progress_bar() as progress:
        found = measure_sustained(
            plan,
            seconds=seconds,
            requests=requests,
            interval=read.seconds(interval) or 0.0,
            progress=progress,
        )
    from twofold.report import page, sustained
    from twofold.report.table import render_grid

    grid = sustained.grid(found)
    if json:
        output.show_json(found.record())
    else:
        output.show(render_grid(grid))
    if html is not None:
        page.write(html, "Sustained run", grid.title, [grid], sustained.pictures(found))
        complain(str(html.resolve()), "report")
