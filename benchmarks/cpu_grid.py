"""Predictions for this CPU beside measurements over a grid: techniques x requests at once x context.

    python benchmarks/cpu_grid.py [--output 32] [--technique NAME ...] [--kinds] [--json FILE]

Needs `twofold pull smollm2-135m` and `twofold calibrate`. Every row measures one load (as many requests as
run at once, all at the start) on one engine per technique, then predicts the same load for `this-cpu`. Prints
measured and predicted TTFT and TPOT and the error of both; `--kinds` also by kind of op.

What is measured is the fastest of several runs, and what `calibrate` measures is a lower quartile: the
machine as it is when nothing else disturbs it. Where neighbours come and go for minutes, run this several
times with the same FILE: of a row that is there already, the faster run is kept.
"""

# ruff: noqa: E402 (OpenMP reads its settings when torch is imported)

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from twofold.kernels.cpu.threads import quiet_openmp

quiet_openmp()  # before torch is imported, as on the command line

from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.jobs.models import find_checkpoint
from twofold.jobs.result import measured_behaviour
from twofold.jobs.run import load_engine, play
from twofold.plan import Plan
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
LOADS = ((1, 64), (1, 512), (1, 4096), (4, 64), (4, 512), (4, 2048), (16, 64), (16, 256), (16, 512))
"""Requests at once and prompt tokens of each."""


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


def figures(engine: Engine, plan: Plan, tokenizer: Any, vocab: int) -> dict[str, Any]:
    """Mean TTFT and TPOT of the plan's load on `engine`, and seconds by kind of op."""
    real = engine.device.real
    played = play(engine, make_workload(plan.workload, tokenizer, real=real, vocab=vocab))
    latencies = played.latencies()
    return {
        "ttft": sum(latencies["ttft"]) / len(latencies["ttft"]),
        "tpot": sum(latencies["tpot"]) / len(latencies["tpot"]),
        "kinds": {kind: total.seconds for kind, total in engine.device.totals.items()},
        "busy": engine.totals.busy_seconds,
    }


def rows(
    techniques: tuple[str, ...], output: int, repeats: int, *, profile: bool
) -> Iterator[dict[str, Any]]:
    """One record per technique and load: the fastest of `repeats` runs after one that warms up."""
    checkpoint = find_checkpoint(MODEL)
    spec = checkpoint.spec
    for technique in techniques:
        first = plan_of(technique, *LOADS[-1], output)
        engine = load_engine(first, checkpoint, profile=profile)
        play(
            engine,
            make_workload(plan_of(technique, 4, 64, 8).workload, checkpoint.tokenizer, real=True, vocab=0),
        )
        for batch, prompt in LOADS:
            plan = plan_of(technique, batch, prompt, output)
            runs = [figures(engine, plan, checkpoint.tokenizer, spec.vocab_size) for _ in range(repeats + 1)]
            found = min(runs[1:], key=lambda run: float(run["busy"]))
            behaviour = measured_behaviour([engine])  # the same in every run: of the load alone
            twin = build_engine(plan, make_device("this-cpu"), spec, checkpoint, recorded=behaviour)
            expected = figures(twin, plan, checkpoint.tokenizer, spec.vocab_size)
            yield {
                "technique": technique or "baseline",
                "batch": batch,
                "prompt": prompt,
                "measured": found,
                "predicted": expected,
            }
        del engine


def _key(record: dict[str, Any]) -> tuple[str, int, int]:
    return record["technique"], record["batch"], record["prompt"]


def summary(records: list[dict[str, Any]], name: str) -> str:
    """Median and 90th percentile of the absolute error of one latency."""
    errors = [abs(r["predicted"][name] / r["measured"][name] - 1.0) for r in records]
    p90 = quantiles(errors, n=10, method="inclusive")[-1] if len(errors) > 1 else errors[0]
    return f"{name}: {len(errors)} rows, median error {median(errors):.1%}, p90 {p90:.1%}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=int, default=32, help="tokens that each request yields")
    parser.add_argument("--repeats", type=int, default=4, help="runs of each row")
    parser.add_argument("--technique", action="append", help="only these (baseline: none)")
    parser.add_argument(
        "--kinds", action="store_true", help="also seconds by kind of op, measured by profiling"
    )
    parser.add_argument("--json", type=Path, help="write the records to this file")
    args = parser.parse_args()
    chosen = tuple("" if t == "baseline" else t for t in args.technique) if args.technique else TECHNIQUES
    records = []
    before = json.loads(args.json.read_text(encoding="utf-8")) if args.json and args.json.exists() else []
    known = {_key(r): r for r in before}
    print(
        f"{'technique':26}{'batch':>6}{'prompt':>7}  {'TTFT':>9}{'predicted':>10}{'error':>7}  {'TPOT':>9}",
        end="",
    )
    print(f"{'predicted':>10}{'error':>7}")
    for r in rows(chosen, args.output, args.repeats, profile=args.kinds):
        last = known.get(_key(r))
        if last is not None and last["measured"]["busy"] < r["measured"]["busy"]:
            r["measured"] = last["measured"]
        known[_key(r)] = r
        records.append(r)
        m, p = r["measured"], r["predicted"]
        line = f"{r['technique']:26}{r['batch']:6}{r['prompt']:7}"
        for name, unit in (("ttft", 1e3), ("tpot", 1e3)):
            line += f"  {m[name] * unit:7.1f}ms{p[name] * unit:8.1f}ms{p[name] / m[name] - 1:+7.0%}"
        print(line, flush=True)
        if args.kinds:
            for kind in sorted(m["kinds"], key=lambda k: -m["kinds"][k]):
                ours, theirs = p["kinds"].get(kind, 0.0), m["kinds"][kind]
                print(f"    {kind:14} measured {theirs * 1e3:9.2f} ms  predicted {ours * 1e3:9.2f} ms")
    if args.json:
        records = list(known.values())
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    for name in ("ttft", "tpot"):
        print(summary(records, name))


if __name__ == "__main__":
    main()
