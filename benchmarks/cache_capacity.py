"""How many requests run at once in a fixed memory: the plain engine, and techniques that shrink the cache;
prints a table.

    python benchmarks/cache_capacity.py [--model smollm2-135m] [--prompt 2000] [--output 128] [--plain 4]
                                        [--requests 16] [--runs 3] [--threads 2] [--json]
                                        [--techniques kivi:bits=2 snapkv:max_capacity_prompt=512/int8 …]

Every engine has the same memory (`engine.memory`): what the plain one needs for `--plain` requests at their
full length, weights and activations included. All requests arrive at once. Engines take turns of half a
second, so that whatever else the machine does meets all of them; throughput is over an engine's own time, its
median over the runs. What follows a slash is the format in which entries are stored (`engine.cache_format`).
Quality is that of the last tokens of prompts as long as the requests', against the plain engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.run import load_engine
from twofold.kernels.cpu.threads import default_threads
from twofold.models.find import find_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.workloads.text import prose

TECHNIQUES = [
    "kivi:bits=2",
    "snapkv:max_capacity_prompt=512",
    "snapkv:max_capacity_prompt=512/int8",
    "streaming-llm:recent_size=508",
]
TURN = 0.5
"""Seconds of an engine's turn."""
WINDOWS = 2
"""Stretches of text on which quality is measured."""
SLACK = 1.02
"""Blocks beyond those of the plain engine's requests: the scheduler admits nobody into the last of them."""


@dataclass(slots=True)
class Row:
    """One engine: most requests at once and how many there were on average over its time, the ratio of the
    former to the plain engine's, tokens per second and their ratio, requests that lost their place, bytes of
    the cache that are held and that were in use at the peak, quality."""

    technique: str
    at_once: int
    mean_at_once: float
    ratio: float
    tokens_per_s: float
    speedup: float
    preemptions: int
    cache_held: int
    cache_used: int
    kl: float
    top1: float


@dataclass(slots=True)
class Run:
    """An engine while it works: seconds of its own, and requests at once times seconds."""

    engine: Engine
    seconds: float = 0.0
    seats: float = 0.0

    def turn(self) -> None:
        """Steps for as long as a turn lasts, or until there is nothing left to do."""
        end = time.perf_counter() + TURN
        begun = time.perf_counter()
        while self.engine.has_work and begun < end:
            self.engine.step()
            now = time.perf_counter()
            self.seconds += now - begun
            self.seats += self.engine.scheduler.num_running * (now - begun)
            begun = now


def load(
    args: argparse.Namespace, checkpoint: Checkpoint, name: str, memory: int | None, seats: int
) -> Engine:
    """An engine with the technique `name` in `memory` bytes, for at most `seats` requests at once."""
    technique, _, stored = name.partition("/")
    limits = {
        "threads": args.threads,
        "max_num_seqs": seats,
        "max_context": args.prompt + args.output,
        "prefix_caching": False,
        "memory": memory,
        "cache_format": stored or "auto",
    }
    values = {"model": args.model, "techniques": [technique] if technique else [], "engine": limits}
    workload = {"prompt": args.prompt, "output": args.output, "concurrency": seats, "requests": args.requests}
    return load_engine(Plan.from_dict({**values, "workload": workload}), checkpoint)


def memory_of(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    """Bytes that the plain engine needs for `--plain` requests at their full length."""
    with closing(load(args, checkpoint, "", None, args.requests)) as engine:
        need = engine.scheduler.blocks.blocks_for(args.prompt + args.output) * args.plain
        plan = engine.memory
        return plan.weights + plan.activations + int(need * SLACK + 1) * plan.block_bytes


def seats_of(args: argparse.Namespace, checkpoint: Checkpoint, name: str, memory: int) -> int:
    """How many requests may run at once: all, but where each reserves memory beside its blocks, those that
    fit at full length."""
    with closing(load(args, checkpoint, name, memory, 1)) as engine:
        plan = engine.memory
        if not plan.sequence_bytes:
            return int(args.requests)
        blocks = engine.scheduler.blocks.blocks_for(args.prompt + args.output)
        logits = engine.runner.model.spec.vocab_size * 4
        each = plan.sequence_bytes + int(blocks * plan.block_bytes * SLACK) + logits
        return max(1, min(int(args.requests), (memory - plan.weights - plan.activations) // each))


def run_all(engines: Sequence[Engine], prompts: Sequence[list[int]], output: int) -> list[Run]:
    """All requests on every engine, the engines in turns."""
    runs = [Run(engine) for engine in engines]
    for engine in engines:
        engine.reset_totals()
        for ids in prompts:
            engine.add(ids, SamplingParams(max_tokens=output, ignore_eos=True))
    while any(run.engine.has_work for run in runs):
        for run in runs:
            run.turn()
    return runs


def quality(plain: Engine, engine: Engine, texts: Sequence[list[int]], prompt: int) -> tuple[float, float]:
    """Mean KL divergence in nat per token from the plain engine behind prompts, and how often the likeliest
    token is the same."""
    divergence, agreement = [], []
    for ids in texts:
        ours, theirs = (each.score(ids, prompt).log_softmax(-1) for each in (engine, plain))
        divergence.append(float((theirs.exp() * (theirs - ours)).sum(-1).mean()))
        agreement.append(float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()))
    return max(0.0, statistics.mean(divergence)), statistics.mean(agreement)


def measure(args: argparse.Namespace) -> tuple[int, list[Row]]:
    """The memory, a row for the plain engine, then one per technique."""
    checkpoint = find_checkpoint(args.model)
    length = args.prompt + args.output
    ids = checkpoint.text_tokenizer().encode(prose(), special=False)
    ids *= -(-length * args.requests // len(ids))
    texts = [ids[i * length : (i + 1) * length] for i in range(args.requests)]
    prompts = [text[: args.prompt] for text in texts]
    memory = memory_of(args, checkpoint)
    names = ["", *args.techniques]
    with ExitStack() as stack:
        engines = [
            stack.enter_context(
                closing(load(args, checkpoint, n, memory, seats_of(args, checkpoint, n, memory)))
            )
            for n in names
        ]
        found = [quality(engines[0], engine, texts[:WINDOWS], args.prompt) for engine in engines]
        before = [engine.scheduler.num_preempted for engine in engines]
        runs = [run_all(engines, prompts, args.output) for _ in range(args.runs)]
        rows: list[Row] = []
        tokens = args.requests * args.output
        for i, (name, engine) in enumerate(zip(names, engines, strict=True)):
            mine = [column[i] for column in runs]
            peak = engine.totals.peak_seqs
            plain = rows[0] if rows else None
            rows.append(
                Row(
                    name or "(plain)",
                    peak,
                    statistics.median(run.seats / run.seconds for run in mine),
                    peak / plain.at_once if plain else 1.0,
                    statistics.median(tokens / run.seconds for run in mine),
                    statistics.median(column[0].seconds / column[i].seconds for column in runs),
                    (engine.scheduler.num_preempted - before[i]) // args.runs,
                    sum(cache.allocated for cache in engine.runner.model.caches),
                    engine.memory.cache_in_use(engine.totals.peak_blocks, peak),
                    *found[i],
                )
            )
        return memory, rows


def main() -> None:
    """Measure and print."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompt", type=int, default=2000)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--plain", type=int, default=4)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--techniques", nargs="*", default=TECHNIQUES)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    memory, rows = measure(args)
    if args.json:
        print(json.dumps({"memory": memory, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    print(
        f"{args.model}, {args.requests} requests of {args.prompt} + {args.output} tokens in "
        f"{memory / 1e6:.0f} MB, {args.threads} threads"
    )
    heads = "technique", "at once", "ratio", "mean", "tokens/s", "speed", "preempted", "cache", "in use"
    print("{:36} {:>7} {:>6} {:>5} {:>9} {:>6} {:>9} {:>9} {:>9}   KL    top-1".format(*heads))
    for r in rows:
        print(
            f"{r.technique:36} {r.at_once:7} {r.ratio:5.2f}x {r.mean_at_once:5.1f} {r.tokens_per_s:9.1f} "
            f"{r.speedup:5.2f}x {r.preemptions:9} {r.cache_held / 1e6:6.0f} MB {r.cache_used / 1e6:6.0f} MB "
            f"{r.kl:6.3f} {100 * r.top1:5.1f}%"
        )


if __name__ == "__main__":
    main()
