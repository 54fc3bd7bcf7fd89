"""One process with all threads beside a tensor-parallel group of processes that share them: tokens per second
of a prompt and of the answer, and what the collectives of a token take; prints a table.

    python benchmarks/tensor_parallel.py [--model smollm2-135m] [--tp 2] [--threads 2] [--prompt 128]
                                         [--output 48] [--rounds 5] [--kernels native] [--json]

Rounds alternate between both, so that whatever else the machine does meets both; the first is not counted.
Collectives are timed in rounds of their own, by a profiled group; waiting for the slower rank is part of
them.
Nothing is predicted for a group of processes: no device file says how fast they talk.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.run import load_engine
from twofold.kernels.cpu.threads import default_threads
from twofold.models.find import find_checkpoint
from twofold.plan import Plan


@dataclass(frozen=True, slots=True)
class Row:
    """One way to use the threads: medians. collective_ms: of all collectives of a token, None where there are
    none; weights: bytes that each process (the one with the largest share) holds."""

    processes: int
    threads_each: int
    prompt_per_s: float
    output_per_s: float
    collective_ms: float | None
    weights: int


def plan_of(args: argparse.Namespace, tp: int) -> Plan:
    """The plan with `tp` processes."""
    limits = {"threads": max(1, args.threads // tp), "kernels": args.kernels, "prefix_caching": False}
    return Plan.from_dict(
        {
            "model": args.model,
            "parallel": {"tp": tp},
            "engine": {**limits, "max_num_seqs": 1, "max_context": args.prompt + args.output},
        }
    )


def one_round(engine: Engine, prompt: int, output: int) -> tuple[float, float]:
    """(prompt tokens per second, output tokens per second) of one request."""
    vocab = engine.runner.model.spec.vocab_size
    ids = [(7919 * i * i + 104729 * i + 17) % vocab for i in range(prompt)]
    request = engine.add(ids, SamplingParams(max_tokens=output, ignore_eos=True))
    while not request.is_finished:
        engine.step()
    engine.forget(request.id)
    first, last = request.first_token_time, request.last_token_time
    assert first is not None
    assert last is not None
    return prompt / (first - request.arrival_time), (output - 1) / (last - first)


def collective_ms(args: argparse.Namespace) -> float:
    """Milliseconds of collectives per output token, median of rounds."""
    found = []
    checkpoint = find_checkpoint(args.model)
    with closing(load_engine(plan_of(args, args.tp), checkpoint, profile=True)) as engine:
        for number in range(args.rounds + 1):
            engine.reset_totals()
            one_round(engine, 1, args.output)
            if number:
                found.append(1e3 * engine.device.totals["collective"].seconds / args.output)
    return statistics.median(found)


def measure(args: argparse.Namespace) -> list[Row]:
    """A row for one process, then one for the group."""
    checkpoint = find_checkpoint(args.model)
    between = collective_ms(args)
    with ExitStack() as stack:
        loads = {tp: load_engine(plan_of(args, tp), checkpoint) for tp in (1, args.tp)}
        engines = {tp: stack.enter_context(closing(engine)) for tp, engine in loads.items()}
        speeds: dict[int, list[tuple[float, float]]] = {tp: [] for tp in engines}
        for number in range(args.rounds + 1):
            for tp, engine in engines.items():
                speed = one_round(engine, args.prompt, args.output)
                if number:
                    speeds[tp].append(speed)
        return [
            Row(
                tp,
                max(1, args.threads // tp),
                *(statistics.median(speed[i] for speed in speeds[tp]) for i in range(2)),
                None if tp == 1 else between,
                engine.memory.weights,
            )
            for tp, engine in engines.items()
        ]


def print_table(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """The rows for people."""
    lengths = f"{args.prompt} tokens in, {args.output} out"
    print(f"{args.model}, kernels {args.kernels}, {lengths}; medians of {args.rounds} rounds")
    heads = f"{'prompt tok/s':>12} {'output tok/s':>12} {'collectives ms/token':>21} {'weights MB':>11}"
    print(f"{'processes x threads':20} {heads}")
    for row in rows:
        shown = "" if row.collective_ms is None else f"{row.collective_ms:.2f}"
        print(
            f"{row.processes} x {row.threads_each:<16} {row.prompt_per_s:12.1f} {row.output_per_s:12.1f} "
            f"{shown:>21} {row.weights / 1e6:11.1f}"
        )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernels", choices=("native", "native-fp32", "reference"), default="native")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.tp < 2:
        parser.error("--tp must be at least 2: one process is measured anyway")
    rows = measure(args)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows, args)


if __name__ == "__main__":
    main()
