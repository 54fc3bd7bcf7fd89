"""Predictions for this CPU beside measurements over a grid: techniques x requests at once x context.

    python benchmarks/cpu_grid.py [--passes 3] [--output 64] [--technique NAME ... | --all] [--load 2x512 ...]
                                  [--kinds] [--json FILE] [--table FILE]

Needs `twofold pull smollm2-135m`. Every pass calibrates this machine anew (into a file of its own), then
measures every load (as many requests as run at once, all at the start) on one engine per technique, and
predicts the same load from that calibration. Prints measured and predicted TTFT and TPOT and the error of
both; `--kinds` also by kind of op.

What is compared is the machine as it is when nothing else disturbs it. A machine that others use is faster
and slower from minute to minute, and what disturbs only slows: calibrating and measuring alternate; of a
load, each interval between two steps or tokens is taken from the run in which it was shortest, and of what
the passes predicted, the least counts. What a pass alone was off by, against its own runs, is said beside it.
Give the same file to --json again to add passes to it (`--passes 0`: only show them); --table keeps the
figures alone, for docs/accuracy.md. `--all` goes through every technique that runs on one instance, at
prompts of 512 to 2,048 tokens where no --load is given.
"""

# ruff: noqa: E402 (OpenMP reads its settings when torch is imported)

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import mean, median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

from twofold.kernels.cpu.threads import quiet_openmp

quiet_openmp()  # before torch is imported, as on the command line

from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.fleet.build import fleet_technique
from twofold.jobs.result import measured_behaviour
from twofold.jobs.run import load_engine, play
from twofold.measure.calibrate import calibrate
from twofold.models.find import find_checkpoint
from twofold.plan import Plan, read_values
from twofold.report.host import Host
from twofold.workloads.workload import make_workload

MODEL = "smollm2-135m"
TECHNIQUES = (
    "",
    "kivi:bits=4,residual=64",
    "int-vs-fp",
    "gemfilter:keep=192",
    "llm-drop:share=0.2",
    "copyspec",
    "sarathi",
)
EXAMPLE = Path(__file__).parents[1] / "examples" / "all-techniques.yaml"
LOADS = ((1, 64), (1, 256), (1, 1024), (1, 4096), (4, 64), (4, 256), (4, 1024), (16, 64), (16, 256))
"""Requests at once and prompt tokens of each."""
ALL_LOADS = ((2, 512), (1, 2048))
"""Those that all techniques are held against."""

LATENCIES = ("ttft", "tpot")

Key = tuple[str, int, int]


def plan_of(technique: str, batch: int, prompt: int, output: int) -> Plan:
    """The plan of a row. Nothing is shared between requests, so that every prompt is computed."""
    return Plan.from_dict(
        {
            "model": MODEL,
            "techniques": [technique] if technique else [],
            "workload": {"requests": batch, "concurrency": batch, "prompt": prompt, "output": output},
            "engine": {"max_num_seqs": 16, "max_context": 4096 + 2 * output, "prefix_caching": False},
        }
    )


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a load. intervals: seconds between moments, at each of which a step began or tokens came;
    tokens: (moment of the first, moment of the last, their number) of each request; kinds: seconds by kind of
    op."""

    intervals: list[float]
    tokens: list[tuple[int, int, int]]
    kinds: dict[str, float]


def run(engine: Engine, plan: Plan, tokenizer: Any, vocab: int) -> Run:
    """The plan's load on `engine`."""
    items = make_workload(plan.workload, tokenizer, real=engine.device.real, vocab=vocab)
    engine.trace = []
    start = engine.clock.now()
    requests = play(engine, items).requests
    times = [request.token_times or [] for request in requests]
    moments = sorted({start, *(step.start for step in engine.trace), *(t for each in times for t in each)})
    place = {moment: i for i, moment in enumerate(moments)}
    return Run(
        [later - sooner for sooner, later in pairwise(moments)],
        [(place[each[0]], place[each[-1]], len(each)) for each in times],
        {kind: total.seconds for kind, total in engine.device.totals.items()},
    )


def latencies(runs: Sequence[Run]) -> dict[str, float]:
    """Mean TTFT and TPOT over the requests of a run whose every interval is the shortest of `runs`."""
    assert len({len(r.intervals) for r in runs}) == 1, "runs of one load differ in their steps"
    at = [0.0, *accumulate(min(each) for each in zip(*(r.intervals for r in runs), strict=True))]
    tokens = runs[0].tokens
    return {
        "ttft": mean(at[first] for first, _, _ in tokens),
        "tpot": mean((at[last] - at[first]) / (count - 1) for first, last, count in tokens),
    }


@dataclass(slots=True)
class Row:
    """A load under a technique: its runs, and what each pass predicted of it."""

    runs: list[Run] = field(default_factory=list)
    expected: list[Run] = field(default_factory=list)

    @property
    def measured(self) -> dict[str, float]:
        """Latencies of the runs."""
        return latencies(self.runs)

    @property
    def predicted(self) -> dict[str, float]:
        """The least latencies that a pass predicted."""
        each = [latencies([run]) for run in self.expected]
        return {name: min(found[name] for found in each) for name in each[0]}

    def alone(self, name: str) -> list[tuple[float, float]]:
        """One latency as each pass measured and predicted it."""
        repeats = len(self.runs) // len(self.expected)
        return [
            (latencies(self.runs[i * repeats : (i + 1) * repeats])[name], latencies([expected])[name])
            for i, expected in enumerate(self.expected)
        ]


def measure(
    technique: str,
    loads: Sequence[tuple[int, int]],
    output: int,
    repeats: int,
    calibration: Path,
    *,
    profile: bool,
) -> Iterator[tuple[Key, Row]]:
    """Every load under `technique`: `repeats` runs after one that warms up, and the prediction."""
    checkpoint = find_checkpoint(MODEL)
    vocab = checkpoint.spec.vocab_size
    engine = load_engine(plan_of(technique, *loads[-1], output), checkpoint, profile=profile)
    first = plan_of(technique, 4, 64, 8).workload
    play(engine, make_workload(first, checkpoint.tokenizer, real=True, vocab=0))
    for batch, prompt in loads:
        plan = plan_of(technique, batch, prompt, output)
        runs = [run(engine, plan, checkpoint.tokenizer, vocab) for _ in range(repeats + 1)][1:]
        behaviour = measured_behaviour(engine.accounts())  # the same in every run: of the load alone
        device = make_device(str(calibration))
        twin = build_engine(plan, device, checkpoint.spec, checkpoint, recorded=behaviour)
        expected = run(twin, plan, checkpoint.tokenizer, vocab)
        yield (technique or "baseline", batch, prompt), Row(runs, [expected])


def all_techniques() -> tuple[str, ...]:
    """None, and then each of the example that runs on one instance."""
    uses = read_values(EXAMPLE)["techniques"]
    return ("", *(use for use in uses if fleet_technique(plan_of(use, 1, 1, 1)) is None))


def load(text: str) -> tuple[int, int]:
    """Requests and prompt tokens of a load such as 2x512."""
    requests, _, tokens = text.partition("x")
    return int(requests), int(tokens)


def read(path: Path | None) -> dict[Key, Row]:
    """What earlier calls left in `path`."""
    if path is None or not path.exists():
        return {}

    def runs(found: list[dict[str, Any]]) -> list[Run]:
        return [Run(r["intervals"], [(a, b, c) for a, b, c in r["tokens"]], r["kinds"]) for r in found]

    rows = json.loads(path.read_text(encoding="utf-8"))
    return {
        (row["technique"], row["batch"], row["prompt"]): Row(runs(row["runs"]), runs(row["expected"]))
        for row in rows
    }


def write(path: Path, rows: Mapping[Key, Row]) -> None:
    """Keep `rows` in `path`."""
    records = [
        {"technique": technique, "batch": batch, "prompt": prompt, **asdict(row)}
        for (technique, batch, prompt), row in rows.items()
    ]
    path.write_text(json.dumps(records) + "\n", encoding="utf-8")


def write_table(path: Path, rows: Mapping[Key, Row]) -> None:
    """Keep what is shown of `rows` in `path`: seconds measured and predicted."""
    records = [
        {
            "technique": technique,
            "batch": batch,
            "prompt": prompt,
            **{name: [row.measured[name], row.predicted[name]] for name in LATENCIES},
            "alone": {name: row.alone(name) for name in LATENCIES},
        }
        for (technique, batch, prompt), row in rows.items()
    ]
    passes = min(len(row.expected) for row in rows.values())
    about = json.dumps({"processor": Host.here().processor, "model": MODEL, "passes": passes})
    lines = ",\n ".join(map(json.dumps, records))  # one for each row, so that a new pass is a readable change
    path.write_text(f'{about[:-1]}, "rows": [\n {lines}\n]}}\n', encoding="utf-8")


def errors(pairs: Iterable[tuple[float, float]]) -> str:
    """Median and 90th percentile of the absolute error over (measured, predicted)."""
    found = [abs(predicted / measured - 1.0) for measured, predicted in pairs]
    p90 = quantiles(found, n=10, method="inclusive")[-1] if len(found) > 1 else found[0]
    return f"median error {median(found):.1%}, p90 {p90:.1%}"


def summary(rows: Sequence[Row], name: str) -> list[str]:
    """The errors of one latency: of all passes together, then of each alone."""
    told = [f"{name}: {len(rows)} rows, {errors((row.measured[name], row.predicted[name]) for row in rows)}"]
    passes = zip(*(row.alone(name) for row in rows), strict=False)
    return told + [f"  pass {number} alone: {errors(pairs)}" for number, pairs in enumerate(passes, 1)]


def show(rows: Mapping[Key, Row], *, kinds: bool) -> None:
    """Print the table."""
    head = ("technique", "batch", "prompt", "TTFT", "predicted", "error", "TPOT", "predicted", "error")
    print("{:26}{:>6}{:>7}  {:>9}{:>10}{:>7}  {:>9}{:>10}{:>7}".format(*head))
    for (technique, batch, prompt), row in rows.items():
        line = f"{technique:26}{batch:6}{prompt:7}"
        for name in LATENCIES:
            m, p = row.measured[name], row.predicted[name]
            line += f"  {m * 1e3:7.1f}ms{p * 1e3:8.1f}ms{p / m - 1:+7.0%}"
        print(line)
        if kinds:
            for kind, seconds in sorted(row.runs[-1].kinds.items(), key=lambda item: -item[1]):
                ours = row.expected[-1].kinds.get(kind, 0.0)
                print(f"    {kind:14} measured {seconds * 1e3:9.2f} ms  predicted {ours * 1e3:9.2f} ms")
    for name in LATENCIES:
        print(*summary(list(rows.values()), name), sep="\n")


def main() -> None:
    """Measure, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--output", type=int, default=64, help="tokens that each request yields")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each load in a pass")
    parser.add_argument("--technique", action="append", help="only these (baseline: none)")
    parser.add_argument("--all", action="store_true", help="every technique that runs on one instance")
    parser.add_argument("--load", action="append", type=load, help="requests x prompt tokens, such as 2x512")
    parser.add_argument(
        "--kinds", action="store_true", help="also seconds by kind of op, measured by profiling"
    )
    parser.add_argument("--json", type=Path, help="keep the runs in this file")
    parser.add_argument("--table", type=Path, help="keep the table in this file")
    args = parser.parse_args()
    chosen = tuple("" if t == "baseline" else t for t in args.technique) if args.technique else TECHNIQUES
    if args.all and not args.technique:
        chosen = all_techniques()
    loads = args.load or (ALL_LOADS if args.all else LOADS)
    rows = read(args.json)
    for number in range(args.passes):
        with TemporaryDirectory() as folder:
            calibration = calibrate(path=Path(folder) / "this-cpu.yaml").path
            for technique in chosen:
                found = measure(technique, loads, args.output, args.repeats, calibration, profile=args.kinds)
                for key, row in found:
                    into = rows.setdefault(key, Row())
                    into.runs += row.runs
                    into.expected += row.expected
                if args.json:  # a call that is broken off loses little
                    write(args.json, rows)
                print(f"pass {number + 1}: {technique or 'baseline'}", file=sys.stderr)
    show(rows, kinds=args.kinds)
    if args.table:
        write_table(args.table, rows)


if __name__ == "__main__":
    main()
