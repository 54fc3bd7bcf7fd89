"""`requirements`, `longctx` and `attention-io`: questions that are answered from counted steps, without a
workload."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import complete, output, read
from twofold.cli.errors import MISTAKE, complain
from twofold.cli.plan_options import ENGINE, MODEL
from twofold.cli.plans import Given, PlanFile, plan_options

if TYPE_CHECKING:
    from twofold.analysis.use_cases import UseCase
    from twofold.models.spec import ModelSpec
    from twofold.ops.base import Precision
    from twofold.plan import Plan
    from twofold.report.grid import Grid
    from twofold.report.pictures import Picture

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write a report with plots to this file.", show_default=False)
]
_NO_STEP = tuple(
    f"engine.{name}"
    for name in (
        "max_num_seqs",
        "max_context",
        "chunked_prefill",
        "prefix_caching",
        "preemption",
        "policy",
        "memory",
        "cache_blocks",
        "swap_memory",
        "kernels",
        "threads",
    )
)
_WITHOUT = ("combinations", "behaviour", "parallel.dp")


@plan_options(MODEL, ENGINE, without=(*_WITHOUT, "device", *_NO_STEP))
def requirements(
    given: Given,
    plan_file: PlanFile = None,
    use_case: Annotated[
        str,
        typer.Option("--use-case", help="A use case (--list shows them).", autocompletion=complete.use_cases),
    ] = "chat",
    batch: Annotated[int, typer.Option("--batch", help="Requests at a time.")] = 1,
    prompt: Annotated[int | None, typer.Option("--prompt", help="Tokens per prompt, instead.")] = None,
    answer: Annotated[int | None, typer.Option("--output", help="Tokens per answer, instead.")] = None,
    beams: Annotated[int | None, typer.Option("--beams", help="Answers generated at once, instead.")] = None,
    ttft: Annotated[str | None, typer.Option("--ttft", help="Time to first token: 300ms, 2 s.")] = None,
    tpot: Annotated[str | None, typer.Option("--tpot", help="Time per output token: 30ms.")] = None,
    most: Annotated[int, typer.Option("--max-devices", help="Most devices to try.")] = 8,
    listing: Annotated[bool, typer.Option("--list", help="List the use cases and stop.")] = False,
    json: Json = False,
) -> None:
    """What a use case requires of a platform: FLOP/s, bandwidth and capacity of memory, links; and which
    devices meet it, how many of them, or what falls short.

    Counted from the engine's own ops, so techniques and formats of weights and cache count. Without --tp or
    --pp, numbers of devices up to --max-devices are tried in tensor parallel.
    """
    from twofold.analysis.use_cases import get_use_case, use_cases

    if listing:
        _list(list(use_cases().values()), json)
        return
    wanted = get_use_case(use_case).with_changes(
        prompt=prompt, output=answer, beams=beams, ttft=read.seconds(ttft), tpot=read.seconds(tpot)
    )
    plan = given.plan(plan_file)
    from twofold.analysis.records import requirement_record, suitability_record
    from twofold.analysis.requirements import require
    from twofold.analysis.suitability import Finder
    from twofold.devices.catalog import device_names
    from twofold.models.find import find_spec, find_stored

    if most < 1:
        raise ValueError(f"--max-devices must be at least 1, not {most}")
    spec, stored = find_spec(plan.model), find_stored(plan.model)
    need = require(plan, wanted, batch, spec, stored)
    finder = Finder(plan, wanted, batch, spec, stored, most=most)
    found, refused = [], []
    names = list(plan.devices) or device_names()
    with output.progress_bar() as progress:
        for done, name in enumerate(names):
            progress("trying devices", done, len(names))
            try:
                found.append(finder.suit(name))
            except ValueError as error:
                refused.append(error)
    if json:
        devices = [suitability_record(entry, wanted) for entry in found]
        output.show_json({"requirement": requirement_record(need), "devices": devices})
    else:
        from twofold.analysis.tables import requirement_grid, suitability_grid

        _show(requirement_grid(need, spec.name))
        if found:
            _show(suitability_grid(found, wanted))
    for reason in refused:
        complain(str(reason))
    if refused:
        raise typer.Exit(MISTAKE)


def _list(found: list[UseCase], json: bool) -> None:
    if json:
        output.show_json([asdict(entry) for entry in found])
        return
    rows = [
        (
            u.name,
            f"{u.prompt:,}",
            f"{u.output:,}",
            str(u.beams),
            f"{u.ttft * 1e3:g} ms",
            f"{u.tpot * 1e3:g} ms",
            u.title,
        )
        for u in found
    ]
    headings = ("use case", "prompt", "output", "beams", "TTFT", "TPOT", "")
    output.plain_table("Use cases", headings, rows, right=(1, 2, 3, 4, 5))
    for source in dict.fromkeys(source for u in found for source in u.sources):
        complain(source, "source")


@plan_options(MODEL, ENGINE, without=(*_WITHOUT, "devices"))
def longctx(
    given: Given,
    plan_file: PlanFile = None,
    contexts: Annotated[
        str, typer.Option("--contexts", help="Context lengths.", metavar="N,N,…")
    ] = "4096,8192,16384,32768,65536,128000",
    users: Annotated[int, typer.Option("--users", help="Users with a session each.")] = 20,
    rounds: Annotated[int, typer.Option("--rounds", help="Answers per session.")] = 5,
    answer: Annotated[int, typer.Option("--output", help="Tokens per answer.")] = 250,
    think: Annotated[float, typer.Option("--think", help="Seconds that a user reads an answer.")] = 60.0,
    peak: Annotated[
        bool, typer.Option("--peak", help="At the datasheet's peaks: a bound, not a prediction.")
    ] = False,
    json: Json = False,
    html: Html = None,
) -> None:
    """What long contexts cost on a device: how many fit, prompt and answer latency, the switch between users
    over the host link, and sessions per hour."""
    plan = given.plan(plan_file)
    _modelled(plan)
    from twofold.analysis.longctx import SessionLoad
    from twofold.analysis.longctx_sweep import pictures, sweep
    from twofold.analysis.tables import context_grid
    from twofold.models.find import find_spec, find_stored

    spec = find_spec(plan.model)
    load = SessionLoad(users, rounds, answer, think)
    usable = _lengths(contexts, spec, answer)
    with output.progress_bar() as progress:
        found = sweep(plan, usable, load, spec, find_stored(plan.model), peak=peak, progress=progress)
    notes = (
        f"{users} users, {rounds} answers of {answer} tokens a session, {think:g} s between them; "
        f"{found.confidence}",
        "sessions per hour: upper bounds of a closed system; busy: share of the device's time",
    )
    grid = context_grid(found.rows, f"{spec.name} on {found.name}", notes)
    if json:
        rows = [row.record() for row in found.rows]
        output.show_json(
            {"deployment": found.name, "confidence": found.confidence, "load": asdict(load), "rows": rows}
        )
    else:
        _show(grid)
    if html is not None:
        _write(html, "Long contexts", grid, pictures(found.rows))


def _modelled(plan: Plan) -> str:
    """The plan's device, which must be one that is modelled."""
    from twofold.devices.registry import is_real

    if is_real(plan.device):
        raise ValueError(
            f"{plan.device!r} is a real device; name one that is modelled, as in --device h100-sxm "
            "(`twofold devices` lists them)"
        )
    return plan.device


def _show(grid: Grid) -> None:
    from twofold.report.table import render_grid

    output.show(render_grid(grid))


def _write(path: Path, title: str, grid: Grid, drawn: list[Picture]) -> None:
    from twofold.report import page

    page.write(path, title, grid.title, [grid], drawn)
    complain(str(path.resolve()), "report")


def _lengths(text: str, spec: ModelSpec, answer: int) -> list[int]:
    """The context lengths that leave room for an answer, ascending; what is left out is said."""
    lengths = sorted(set(read.whole_numbers(text)))
    if lengths and lengths[0] < 1:
        raise ValueError(f"--contexts: lengths are at least 1 token, not {lengths[0]}")
    usable = [length for length in lengths if length + answer <= spec.max_context]
    beside = f" beside an answer of {answer}" if answer else ""
    if not usable:
        raise ValueError(
            f"--contexts: {spec.name} takes {spec.max_context:,} tokens; none of {text!r} fits{beside}"
        )
    for length in lengths[len(usable) :]:
        complain(
            f"{length:,} tokens{beside} are more than {spec.name} takes ({spec.max_context:,})", "left out"
        )
    return usable


@plan_options(
    MODEL, without=(*_WITHOUT, "devices", "techniques", "parallel.tp", "parallel.pp", "parallel.ep")
)
def attention_io(
    given: Given,
    plan_file: PlanFile = None,
    contexts: Annotated[
        str, typer.Option("--contexts", help="Prompt lengths.", metavar="N,N,…")
    ] = "1024,4096,16384,65536,131072",
    cache: Annotated[
        str | None,
        typer.Option("--cache", help="Cache instead of the device's last one: 192KiB, 40MB.", metavar="SIZE"),
    ] = None,
    json: Json = False,
    html: Html = None,
) -> None:
    """How far attention is from the least that any exact algorithm must read and write, with a cache of that
    size: bytes per layer of one prompt."""
    plan = given.plan(plan_file)
    from twofold.analysis.attention_io import attention_io as analyse
    from twofold.analysis.attention_io import over_caches
    from twofold.analysis.tables import attention_grid
    from twofold.analysis.traffic_pictures import pictures
    from twofold.devices.catalog import get_device
    from twofold.devices.precision import NATIVE
    from twofold.models.find import find_spec
    from twofold.report import units

    file, spec = get_device(_modelled(plan)), find_spec(plan.model)
    native: Precision = next((p for p in NATIVE if p in file.matmul), "fp32")
    precision: Precision = native if plan.precision == "auto" else plan.precision
    if cache is None and file.cache is None:
        raise ValueError(
            f"the file of {file.name} names no cache; give its size with --cache, as in --cache 192KiB"
        )
    size = read.size(cache) if cache is not None else int(file.cache.capacity.value) if file.cache else 0
    lengths = _lengths(contexts, spec, 0)
    rows = [analyse(spec, precision, length, size) for length in lengths]
    notes = (
        "the bound holds up to a constant factor, taken as 1 (arXiv:2402.07443); it leaves the attention of "
        "no "
        "prompt more FLOP per byte than the last column",
        "FlashAttention: counted for its blocks with the whole cache to itself; the engine's op counts "
        "inputs "
        "and outputs once",
    )
    title = f"Attention of {spec.name} ({precision}), one layer, cache of {units.si(size, 'B')} ({file.name})"
    grid = attention_grid(rows, title, notes)
    if json:
        output.show_json(
            {"model": spec.name, "device": file.name, "cache_bytes": size, "precision": precision}
            | {"rows": [{**asdict(row), "intensity": row.intensity} for row in rows]}
        )
    else:
        _show(grid)
    if html is not None:
        ways = over_caches(spec, precision, lengths[-1])
        drawn = pictures(rows, ways, lengths[-1], file, precision)
        _write(html, "Attention and its I/O bound", grid, drawn)
