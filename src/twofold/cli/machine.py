"""`calibrate`, `bench` and `simulate`: this machine's speed, a model's speed on it, and the engine's
soundness."""

from __future__ import annotations

import csv
import io
import random
import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twofold.cli import microbench, output, read
from twofold.cli.errors import FAILED, complain
from twofold.cli.keep import keep
from twofold.cli.plan_options import ENGINE, MODEL
from twofold.cli.plans import Given, PlanFile, plan_options

if TYPE_CHECKING:
    from twofold.jobs.bench import Bench

Lengths = "N,N,…"


class Format(StrEnum):
    """How `bench` prints."""

    MD = "md"
    CSV = "csv"
    JSON = "json"


def calibrate(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer sizes and repeats: half a minute instead of several.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", help="What to measure: cpu, or cuda for this machine's GPU.")
    ] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure this CPU, so that plans can be predicted on it (device `this-cpu`), or this machine's GPU into
    a device file of its own, with microbenchmarks of both."""
    if device != "cpu":
        microbench.calibrate_gpu(device, quick=quick, json=json)
        return
    from twofold.measure.calibrate import calibrate as measure

    with output.progress_bar() as progress:
        found = measure(quick=quick, progress=progress)
    if found.busy:
        complain(
            "other programs were using the processor: the figures are too low; repeat when it is idle",
            "warning",
        )
    if json:
        output.show_json(
            {
                "path": str(found.path),
                "busy": found.busy,
                "figures": dict(found.rows()),
                "microbenchmarks": microbench.records(found.measured.micro),
            }
        )
    else:
        output.plain_table("This CPU", ("figure", "measured"), found.rows(), right=(1,))
        if found.measured.micro is not None:
            microbench.show(found.measured.micro)
        complain(f"written to {found.path}", "note")


@plan_options(MODEL, ENGINE, without=("devices", "combinations", "behaviour"))
def bench(
    given: Given,
    plan_file: PlanFile = None,
    prompts: Annotated[
        str, typer.Option("-p", "--n-prompt", help="Prompt lengths; 0 for none.", metavar=Lengths)
    ] = "512",
    outputs: Annotated[
        str, typer.Option("-n", "--n-gen", help="Answer lengths; 0 for none.", metavar=Lengths)
    ] = "128",
    depths: Annotated[
        str, typer.Option("-d", "--n-depth", help="Tokens of context before.", metavar=Lengths)
    ] = "0",
    repeats: Annotated[int, typer.Option("-r", "--repetitions", help="Samples per test.")] = 5,
    form: Annotated[Format, typer.Option("-o", "--output-format", help="How to print.")] = Format.MD,
) -> None:
    """Prompt processing (pp) and generation (tg) in tokens/s, one request at a time: mean ± standard
    deviation.

    On a modelled device the same is predicted.
    """
    from twofold.jobs.bench import bench_plan
    from twofold.jobs.bench_results import bench_results

    lengths = [read.whole_numbers(text) for text in (prompts, outputs, depths)]
    plan = given.plan(plan_file)
    with output.progress_bar() as progress:
        found = bench_plan(
            plan,
            prompts=lengths[0],
            outputs=lengths[1],
            depths=lengths[2],
            repeats=repeats,
            progress=progress,
        )
    for result in bench_results(found):
        keep(lambda store, result=result: store.save(result))  # type: ignore[misc]
    if form is Format.JSON:
        output.show_json(found.records())
    else:
        print(_csv(found) if form is Format.CSV else _markdown(found), end="")


def _markdown(bench: Bench) -> str:
    head = ("model", "size", "params", "device", "techniques", "test", "t/s", "GB/s", "GFLOP/s")
    lines = ["| " + " | ".join(head) + " |", "| --- | ---: | ---: | --- | --- | --- | ---: | ---: | ---: |"]
    size, parameters = f"{bench.weight_bytes / 2**20:.2f} MiB", f"{bench.parameters / 1e6:.2f} M"
    for outcome in bench.outcomes:
        speed = f"{outcome.mean:.2f} ± {outcome.deviation:.2f}"
        if outcome.interval is not None:
            ends = outcome.figure(outcome.tokens_per_s, "token/s")
            speed = f"{outcome.mean:.2f} ({ends.low:.2f}–{ends.high:.2f})"
        moved, flop = (sum(v) / len(v) / 1e9 for v in (outcome.bytes_per_s, outcome.flop_per_s))
        cells = (bench.model, size, parameters, bench.device, bench.techniques, outcome.test.name, speed)
        lines.append("| " + " | ".join((*cells, f"{moved:.1f}", f"{flop:.1f}")) + " |")
    below = [f"confidence: {bench.confidence}"]
    if bench.settings:
        below.append(", ".join(f"{name}: {value}" for name, value in bench.settings.items()))
    for outcome in bench.outcomes:
        if outcome.reference_ops:
            below.append(f"ops on reference kernels in {outcome.test.name}: {_counts(outcome.reference_ops)}")
    return "\n".join(lines) + "\n\n" + "\n".join(below) + "\n"


def _counts(ops: dict[str, int]) -> str:
    """`Linear 120, Gather 2`: most frequent first."""
    return ", ".join(f"{name} {ops[name]}" for name in sorted(ops, key=lambda name: (-ops[name], name)))


def _csv(bench: Bench) -> str:
    rows: list[dict[str, Any]] = []
    for record in bench.records():
        figures = {
            f"{name}_{end}": record[name][end]
            for name in ("tokens_per_s", "achieved_gb_s", "achieved_gflop_s")
            for end in ("low", "mid", "high")
        }
        plain = {k: v for k, v in record.items() if not isinstance(v, dict | list)}
        plain["reference_ops"] = _counts(record["reference_ops"])
        rows.append({**plain, **figures, "samples": len(record["samples"])})
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def simulate(
    requests: Annotated[int, typer.Option("--requests", help="Requests to play.")] = 100_000,
    server: Annotated[
        bool,
        typer.Option("--server", help="The server's whole request lifecycle, with workers that are killed."),
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Replay this seed [default: a new one].", show_default=False)
    ] = None,
    episode: Annotated[
        int | None,
        typer.Option("--episode", help="Only this episode, to replay a failure.", show_default=False),
    ] = None,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults/--no-faults", help="Cancel, abort and take memory away at random; more with --server."
        ),
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Test the engine, or the server around it, against itself: random requests, settings and faults under
    virtual time, from one seed.

    Every invariant is checked on the way. A failure names the episode that replays it.
    """
    from dataclasses import fields

    from twofold.engine.simulate import SimulationError
    from twofold.engine.simulate import simulate as play_engine
    from twofold.server.simulation.simulate import simulate as play_server

    chosen = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    complain(str(chosen), "seed")
    try:
        with output.progress_bar() as progress:
            result = (play_server if server else play_engine)(
                requests,
                seed=chosen,
                faults=faults,
                progress=lambda done, total: progress("simulating", done, total),
                episode=episode,
            )
    except SimulationError as error:
        complain(str(error))
        found = re.search(r"episode (\d+)", str(error))
        replay = f"twofold simulate --requests {requests} --seed {chosen}" + (
            f" --episode {found[1]}" if found else ""
        )
        complain(replay + " --server" * server + " --no-faults" * (not faults), "replay")
        raise typer.Exit(FAILED) from None
    counts = {field.name: getattr(result, field.name) for field in fields(result)}
    if json:
        output.show_json(counts)
        return
    output.plain_table("Every invariant held", ("", "count"), list(_rows(counts)), right=(1,))


def _rows(counts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and figures; a row for each kind, the most frequent first, where there are kinds."""
    for name, value in counts.items():
        kinds = value.most_common() if isinstance(value, Counter) else [("", value)]
        for kind, count in kinds:
            yield f"{name.replace('_', ' ')}{': ' * bool(kind)}{kind}", f"{count:,}"
