"""Decoding behind a long prompt with all of its cache, and with what a technique keeps of it: tokens per
second and bytes of the cache in use; prints a table.

    python benchmarks/dropped_entries.py [--model smollm2-135m] [--prompt 8000] [--output 192] [--turn 16]
                                         [--techniques snapkv:max_capacity_prompt=1024 …] [--threads 2]
                                         [--json]

All engines read the prompt first, then take turns of some tokens each, so that whatever else the machine does
meets all of them; the first turn is not counted. The prompt is prose, so that what is kept is what the model
attends to.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

from twofold.engine.engine import Engine
from twofold.engine.request import Request, SamplingParams
from twofold.jobs.run import load_engine
from twofold.kernels.cpu.threads import default_threads
from twofold.models.find import find_checkpoint
from twofold.plan import Plan
from twofold.workloads.text import prose

TECHNIQUES = [
    "snapkv:max_capacity_prompt=1024",
    "streaming-llm",
    "h2o",
    "elastic-cache:ratio=0.8",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One engine: seconds to the first token, median decoded tokens per second, the median over turns of its
    speed over the plain engine's in the same turn, entries and bytes of the cache at the end."""

    technique: str
    first_token_s: float
    tokens_per_s: float
    speedup: float
    entries: int
    cache_bytes: int


def plan_of(args: argparse.Namespace, techniques: list[str]) -> Plan:
    """The plan with `techniques`."""
    limits = {"threads": args.threads, "max_num_seqs": 1, "max_context": args.prompt + args.output}
    return Plan.from_dict(
        {"model": args.model, "techniques": techniques, "engine": {**limits, "prefix_caching": False}}
    )


def start(engine: Engine, ids: list[int], output: int) -> tuple[Request, float]:
    """A request that has its first token, and the seconds that it took."""
    begun = time.perf_counter()
    request = engine.add(ids, SamplingParams(max_tokens=output, ignore_eos=True))
    while not request.num_output_tokens:
        engine.step()
    return request, time.perf_counter() - begun


def turn(engine: Engine, request: Request, tokens: int) -> float:
    """Tokens per second over the next `tokens`."""
    end = request.num_output_tokens + tokens
    begun = time.perf_counter()
    while request.num_output_tokens < end:
        engine.step()
    return tokens / (time.perf_counter() - begun)


def measure(args: argparse.Namespace) -> list[Row]:
    """A row for the plain engine, then one per technique."""
    checkpoint = find_checkpoint(args.model)
    tokenizer = checkpoint.tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode(prose()[: args.prompt * 8], special=False)[: args.prompt]
    names = ["", *args.techniques]
    with ExitStack() as stack:
        engines = [
            stack.enter_context(closing(load_engine(plan_of(args, [n] if n else []), checkpoint)))
            for n in names
        ]
        requests = [start(engine, ids, args.output) for engine in engines]
        speeds: list[list[float]] = [[] for _ in names]
        for number in range((args.output - 1) // args.turn - 1):
            for i, (engine, (request, _)) in enumerate(zip(engines, requests, strict=True)):
                speed = turn(engine, request, args.turn)
                if number:
                    speeds[i].append(speed)
        rows = []
        for name, engine, (request, first), mine in zip(names, engines, requests, speeds, strict=True):
            ratios = [ours / plain for ours, plain in zip(mine, speeds[0], strict=True)]
            held = len(request.block_table) * engine.memory.block_bytes
            rows.append(
                Row(
                    name or "(all entries)",
                    first,
                    statistics.median(mine),
                    statistics.median(ratios),
                    request.num_slots,
                    held,
                )
            )
            engine.cancel(request.id)
        return rows


def main() -> None:
    """Measure and print."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompt", type=int, default=8000)
    parser.add_argument("--output", type=int, default=192)
    parser.add_argument("--turn", type=int, default=16)
    parser.add_argument("--techniques", nargs="*", default=TECHNIQUES)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = measure(args)
    if args.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print(f"{args.model}, a prompt of {args.prompt} tokens, {args.threads} threads")
    heads = "technique", "first token", "tokens/s", "speed", "entries", "cache"
    print("{:40} {:>12} {:>9} {:>7} {:>8} {:>9}".format(*heads))
    for row in rows:
        print(
            f"{row.technique:40} {row.first_token_s:10.2f} s {row.tokens_per_s:9.1f} {row.speedup:6.2f}x "
            f"{row.entries:8} {row.cache_bytes / 1e6:6.1f} MB"
        )


if __name__ == "__main__":
    main()
