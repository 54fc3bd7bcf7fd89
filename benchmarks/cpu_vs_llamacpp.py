"""Twofold's `cpu` device against llama.cpp on the same GGUF files, interleaved A B A B; prints a table.

    python benchmarks/cpu_vs_llamacpp.py [--models smollm2-135m gemma3-270m] [--threads 2] [--rounds 7]
                                         [--quick] [--json] [--peer-python PATH]

It needs llama-cpp-python, compiled here so that it uses all that this processor has, and the models:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
    twofold pull smollm2-135m; twofold pull gemma3-270m

`--peer-python` names the interpreter of another environment that has it; llama.cpp runs in a process of its
own either way. What is timed: of llama.cpp `llama_decode` alone, as llama-bench does it, with its flash
attention on and off (the faster one counts) and its default fp16 cache; of Twofold whole engine steps with
default settings: scheduling, forward pass, greedy choice of the token, bookkeeping.

    pp512           a prompt of 512 tokens to its first logits
    tg128           128 tokens, one sequence
    8 x tg64        64 tokens in each of eight sequences that decode together, behind prompts of 32
    tg64 @ d4096    64 tokens behind a context of 4,096

GB/s counts the weights and the cache that our steps have to read; the limit is what a plain read of a buffer
as large as the weights reaches with the same threads, measured in every round. Medians of the rounds, after
one that is not counted; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import quiet_torch
import torch
from llamacpp_cases import QUICK, Case, Sizes, make_cases
from peer import Peer
from read_limit import ReadLimit

from twofold.jobs.run import load_engine
from twofold.models.find import find_checkpoint
from twofold.plan import Plan

INSTALL = (
    "Install it with: CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python "
    "llama-cpp-python==0.3.36; or name an interpreter that has it: --peer-python PATH"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. ours, theirs: tokens/s; ratio: ours over theirs; share_of_limit: of the measured
    read bandwidth; gb_s: counted bytes per second; times_one: tokens/s over those of one sequence."""

    case: str
    ours: float
    theirs: float
    ratio: float
    share_of_limit: float
    gb_s: float
    limit_gb_s: float
    rounds: int
    their_setting: str
    times_one: float | None = None


def measure(name: str, peer: Peer, sizes: Sizes, threads: int, deadline: float) -> tuple[list[Row], str]:
    """All rows of one model, and what llama.cpp says of itself. No round but the first begins after
    `deadline` (of time.monotonic)."""
    say(f"{name}: loading")
    checkpoint = find_checkpoint(name)
    info = peer.ask("load", model=str(checkpoint.path), threads=threads)
    longest = sizes.depth + sizes.depth_output + 1
    plan = Plan.from_dict(
        {"model": name, "workload": {"prompt": longest - 1, "output": 1}, "engine": {"threads": threads}}
    )
    engine = load_engine(plan, checkpoint)
    limit = ReadLimit(engine.memory.weights)
    say(f"{name}: computing the context of {sizes.depth} tokens")
    cases = make_cases(engine, peer, sizes, info["vocab"])
    limits: list[float] = []
    ours: dict[str, list[float]] = {case.name: [] for case in cases}
    theirs: dict[str, dict[str, list[float]]] = {case.name: {s: [] for s in case.theirs} for case in cases}
    for number in range(sizes.rounds + 1):
        if number > 1 and time.monotonic() > deadline:
            say(f"{name}: time is over after {number - 1} rounds")
            break
        read = limit.measure()
        if number:
            limits.append(read)
        for case in cases:
            say(
                f"{name}: round {number} of {sizes.rounds}, {case.name}"
                + ("" if number else " (not counted)")
            )
            mine = case.tokens / case.ours()
            others = {setting: case.tokens / time() for setting, time in case.theirs.items()}
            if number:
                ours[case.name].append(mine)
                for setting, rate in others.items():
                    theirs[case.name][setting].append(rate)
    at_limit = statistics.median(limits)
    rows = [_row(name, case, ours[case.name], theirs[case.name], at_limit) for case in cases]
    one, batch = ours[cases[1].name], ours[cases[2].name]
    rows[2] = replace(rows[2], times_one=statistics.median(b / a for a, b in zip(one, batch, strict=True)))
    return rows, f"llama-cpp-python {info['version']}: {info['system']}"


def _row(model: str, case: Case, mine: list[float], by_setting: dict[str, list[float]], limit: float) -> Row:
    setting = max(by_setting, key=lambda s: statistics.median(by_setting[s]))
    theirs = by_setting[setting]
    rate = statistics.median(mine)
    return Row(
        f"{model} {case.name}",
        rate,
        statistics.median(theirs),
        statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
        rate * case.read / case.tokens / limit,
        rate * case.read / case.tokens / 1e9,
        limit / 1e9,
        len(mine),
        setting,
    )


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def print_table(rows: Sequence[Row], threads: int, quick: bool) -> None:
    """The rows for people."""
    short = "; --quick: fewer rounds, shorter cases, flash attention always on" if quick else ""
    rounds = min(row.rounds for row in rows)
    print(f"{threads} threads, medians of {rounds} interleaved rounds{short}")
    print(
        f"{'case':30} {'twofold tok/s':>13} {'llama.cpp tok/s':>15} {'ratio':>7} {'GB/s':>6} {'limit':>6} "
        f"{'share':>6}  llama.cpp's setting"
    )
    for row in rows:
        print(
            f"{row.case:30} {row.ours:13.1f} {row.theirs:15.1f} {row.ratio:6.2f}x {row.gb_s:6.1f} "
            f"{row.limit_gb_s:6.1f} {row.share_of_limit:6.0%}  {row.their_setting}"
            + (f"; {row.times_one:.2f}x the tokens/s of one" if row.times_one else "")
        )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--rounds", type=int, default=None, help="counted rounds (default 7; quick: at most 2)"
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: less of everything")
    parser.add_argument("--json", action="store_true", help="a list of {case, ours, theirs, ratio, …}")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has llama_cpp")
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    if args.rounds is not None:
        if args.rounds < 1:
            parser.error(f"--rounds is {args.rounds}; it must be at least 1")
        sizes = replace(sizes, rounds=args.rounds)
    torch.set_num_threads(args.threads)
    rows: list[Row] = []
    script = Path(__file__).with_name("llamacpp_peer.py")
    with Peer(args.peer_python, script, "llama_cpp", INSTALL, quiet_torch.ENVIRONMENT) as peer:
        start = time.monotonic()
        for number, model in enumerate(args.models, 1):
            share = float("inf") if sizes.seconds is None else sizes.seconds * number / len(args.models)
            found, about = measure(model, peer, sizes, args.threads, start + share)
            rows += found
    say(about)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows, args.threads, args.quick)


if __name__ == "__main__":
    main()
