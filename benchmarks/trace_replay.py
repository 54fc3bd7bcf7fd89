"""Replays a recorded trace in prediction and prints how fast the predictor is; one process, one core.

    python benchmarks/trace_replay.py TRACE.csv [--requests N] [--model M] [--device D] [--tp N] [--json]

The trace is a CSV with arrival time, prompt tokens and output tokens, such as the Azure LLM inference traces.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from twofold.jobs.predict import predict_plan
from twofold.plan import Plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", default="llama-3.1-70b")
    parser.add_argument("--device", default="h100-sxm")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    plan = Plan.from_dict(
        {
            "model": args.model,
            "parallel": {"tp": args.tp},
            "workload": {"trace": str(args.trace), "requests": args.requests},
        }
    )
    start, cpu = time.perf_counter(), time.process_time()
    result = predict_plan(plan, args.device)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    steps = result.counters["engine"]["steps"]
    row = {
        "requests": result.workload.requests,
        "steps": steps,
        "wall_s": wall,
        "cpu_s": cpu,
        "requests_per_s": result.workload.requests / cpu,
        "steps_per_s": steps / cpu,
        "ttft_p50_s": result.percentiles["ttft"]["p50"].mid,
        "tpot_p50_s": result.percentiles["tpot"]["p50"].mid,
    }
    if args.json:
        print(json.dumps(row, indent=2))
        return
    print(f"{args.model} on {args.tp} x {args.device}, {args.trace.name}")
    for name, value in row.items():
        print(f"{name:16} {value:12,.4g}")


if __name__ == "__main__":
    main()
