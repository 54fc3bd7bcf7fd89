"""`stream`, and the table of microbenchmarks under `calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import output, read
from twofold.cli.errors import complain
from twofold.errors import nearest

if TYPE_CHECKING:
    from twofold.devices.microbench import Microbenchmarks


def show(found: Microbenchmarks) -> None:
    """The readings as a table, and what has none."""
    from twofold.report import units

    rows = [(r.bench, r.case, units.si(r.value, r.unit)) for r in found.readings]
    if rows:
        output.plain_table("Microbenchmarks", ("benchmark", "case", "measured"), rows, right=(2,))
    for what, reason in found.missing.items():
        complain(f"{what}: {reason}", "note")


def records(found: Microbenchmarks | None) -> list[dict[str, Any]]:
    """The readings for JSON."""
    return [] if found is None else [reading._asdict() for reading in found.readings]


def calibrate_gpu(device: str, *, quick: bool, json: bool) -> None:
    """`calibrate --device cuda`."""
    if device != "cuda":
        raise ValueError(f"--device {device!r} cannot be measured; {nearest(device, ('cpu', 'cuda'))}")
    from twofold.measure.gpu.calibrate import calibrate_gpu as measure

    with output.progress_bar() as progress:
        found = measure(quick=quick, progress=progress)
    if json:
        reached = [{"what": what, "share_of_datasheet": share} for what, share in found.shares]
        output.show_json(
            {"path": str(found.path), "microbenchmarks": records(found.microbenchmarks), "reached": reached}
        )
        return
    show(found.microbenchmarks)
    rows = [(what, f"{share:.0%}") for what, share in found.shares]
    output.plain_table("Reached of the datasheet's figures", ("figure", "share"), rows, right=(1,))
    complain(f"written to {found.path}", "note")


def stream(
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            help="Size of one array [default: four times the last cache, at most a twelfth of memory].",
            metavar="SIZE",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Threads [default: one per core].", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option("-r", "--repetitions", help="Runs, of which the best counts.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """The STREAM benchmark on this CPU: copy, scale, add and triad, bytes counted and the best run chosen
    by its rules.

    Each kernel is run as a plain loop, through the vectors that the engine's ops are written with (abstract),
    and through those with stores past the caches (streamed).
    """
    from twofold.measure.caches import last_cache_bytes
    from twofold.measure.device_document import memory_bytes
    from twofold.measure.stream import WAYS, abstraction_ratio, default_array_bytes
    from twofold.measure.stream import stream as measure

    if threads is not None and threads < 1:
        raise ValueError(f"--threads is {threads}; it must be at least 1")
    nbytes = min(default_array_bytes(), memory_bytes() // 12) if size is None else read.size(size)
    assert isinstance(nbytes, int)
    results = measure(nbytes, threads=threads, repeats=repeats)
    ratio = abstraction_ratio(results)
    cached = nbytes < 4 * last_cache_bytes()
    if json:
        output.show_json(
            {
                "results": [result.record() for result in results],
                "abstract_over_plain": ratio,
                "larger_than_caches": not cached,
            }
        )
        return
    rows = []
    for way in WAYS:
        for result in results:
            if result.way == way:
                times = result.record()["seconds"]
                cells = (f"{times[name]:.6f}" for name in ("mean", "min", "max"))
                rows.append((way, result.kernel.capitalize(), f"{result.best_rate / 1e6:.1f}", *cells))
    first = results[0]
    plural = "" if first.threads == 1 else "s"
    title = f"STREAM, 3 arrays of {first.array_bytes / 2**20:.1f} MiB, {first.threads} thread{plural}"
    head = ("way", "function", "best rate MB/s", "avg time", "min time", "max time")
    output.plain_table(title, head, rows, right=(2, 3, 4, 5))
    complain(f"the abstraction runs at {ratio:.2f} times the plain loops' rate", "note")
    if cached:
        complain("the arrays are smaller than four times the last cache: not all of it is memory", "warning")
