"""Replays a recorded trace in prediction and prints how fast the predictor is; one process, one core.

    python benchmarks/trace_replay.py TRACE.csv [--requests N] [--model M] [--device D] [--tp N] [--json]
        [--peer vidur --peer-path CHECKOUT --peer-python PYTHON]

The trace is a CSV with arrival time, prompt tokens and output tokens, such as the Azure LLM inference traces.
With a peer, its simulator gets the same requests, and both rates are printed (see `vidur_peer.py`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import vidur_peer

from twofold.jobs.predict import predict_plan
from twofold.plan import Plan
from twofold.workloads.workload import make_workload


def ours(plan: Plan, device: str) -> dict[str, Any]:
    """Predict `plan` on `device`. requests_per_s and steps_per_s: per second of CPU time, reading the trace
    and making the result included."""
    start, cpu = time.perf_counter(), time.process_time()
    result = predict_plan(plan, device)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    steps = result.counters["engine"]["steps"]
    return {
        "requests": result.workload.requests,
        "steps": steps,
        "wall_s": wall,
        "cpu_s": cpu,
        "requests_per_s": result.workload.requests / cpu,
        "steps_per_s": steps / cpu,
        "ttft_p50_s": result.percentiles["ttft"]["p50"].mid,
        "tpot_p50_s": result.percentiles["tpot"]["p50"].mid,
    }


def vidur(plan: Plan, checkout: Path, python: Path) -> dict[str, Any]:
    """The same requests in Vidur's simulator; its training of predictors and start-up are not counted in
    requests_per_s."""
    items = make_workload(plan.workload, None, real=False, vocab=1).items
    times = vidur_peer.simulate(items, plan.parallel.tp, checkout, python)
    return {"vidur_" + name: value for name, value in times.items()} | {
        "vidur_requests_per_s": len(items) / times["cpu_s"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--requests", type=int, help="the first so many; all by default")
    parser.add_argument("--model", default="llama-3.1-70b")
    parser.add_argument("--device", default="h100-sxm")
    parser.add_argument("--tp", type=int, default=8)
    parser.add_argument("--peer", choices=("vidur",))
    parser.add_argument("--peer-path", type=Path, help="the peer's checkout")
    parser.add_argument("--peer-python", type=Path, help="python of an environment with what the peer needs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.peer and not (args.peer_path and args.peer_python):
        parser.error(vidur_peer.how_to())
    load: dict[str, Any] = {"trace": str(args.trace)}
    if args.requests is not None:
        load["requests"] = args.requests
    plan = Plan.from_dict({"model": args.model, "parallel": {"tp": args.tp}, "workload": load})
    row = ours(plan, args.device)
    if args.peer:
        row |= vidur(plan, args.peer_path, args.peer_python)
    if args.json:
        print(json.dumps(row, indent=2))
        return
    print(f"{args.model} on {args.tp} x {args.device}, {args.trace.name}")
    for name, value in row.items():
        print(f"{name:20} {value:12,.4g}")
    if not args.peer:
        print(vidur_peer.how_to())


if __name__ == "__main__":
    main()
