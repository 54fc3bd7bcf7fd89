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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import quiet_torch
import torch
from counted_reads import counted_reads
from peer import Peer
from read_limit import ReadLimit

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.models import find_checkpoint
from twofold.jobs.run import load_engine
from twofold.plan import Plan

INSTALL = (
    "Install it with: CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python "
    "llama-cpp-python==0.3.36; or name an interpreter that has it: --peer-python PATH"
)
SEQUENCES = 8
BEFORE_BATCH = 32
"""Prompt tokens of each of the sequences that decode together."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured: tokens of each case, rounds, and llama.cpp's flash attention settings."""

    rounds: int = 7
    prompt: int = 512
    output: int = 128
    batch_output: int = 64
    depth: int = 4096
    depth_output: int = 64
    flash: tuple[bool, ...] = (True, False)


QUICK = Sizes(rounds=2, prompt=256, output=32, batch_output=8, depth=1024, depth_output=16, flash=(True,))


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: its name, tokens and bytes of a timing, and how each side times it (seconds)."""

    name: str
    tokens: int
    read: float
    ours: Callable[[], float]
    theirs: dict[str, Callable[[], float]]


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
    their_setting: str
    times_one: float | None = None


def token_ids(count: int, vocab: int, seed: int = 0) -> list[int]:
    """Token ids that do not repeat with a short period."""
    return [(7919 * i * i + 104729 * (i + seed) + 17) % vocab for i in range(count)]


def time_prompt(engine: Engine, ids: Sequence[int]) -> float:
    """Seconds from the first step to the first token of a prompt, nothing cached."""
    engine.scheduler.blocks.forget_cached()
    return _time(engine, [ids], before=lambda requests: True, tokens=1)


def time_decode(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int) -> float:
    """Seconds of the `tokens` steps after all of `prompts` have their first token. A prompt whose blocks are
    still cached is not computed again."""
    return _time(engine, prompts, before=lambda requests: all(r.num_output_tokens for r in requests),
                 tokens=tokens + 1)  # fmt: skip


def _time(
    engine: Engine, prompts: Sequence[Sequence[int]], *, before: Callable[[Any], bool], tokens: int
) -> float:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    requests = [engine.add(ids, params) for ids in prompts]
    while not before(requests):
        engine.step()
    assert len({r.num_output_tokens for r in requests}) == 1, "sequences that decode together start together"
    start = engine.clock.now()
    while not all(r.is_finished for r in requests):
        engine.step()
    seconds = engine.clock.now() - start
    for request in requests:
        engine.forget(request.id)
    return seconds


def make_cases(engine: Engine, peer: Peer, sizes: Sizes, vocab: int) -> list[Case]:
    """The four cases of the loaded model. Computes the long context once on either side."""
    model = engine.runner.model
    chunk = engine.scheduler.config.max_num_batched_tokens
    ids = token_ids(sizes.prompt, vocab)
    short = ids[:1]
    many = [token_ids(BEFORE_BATCH, vocab, seed) for seed in range(SEQUENCES)]
    deep = token_ids(sizes.depth, vocab, 99)

    def peer_prompt(flash: bool) -> Callable[[], float]:
        context = peer.ask("open", tokens=sizes.prompt, sequences=1, flash=flash)["context"]
        return lambda: peer.ask("prompt", context=context, ids=ids)["seconds"]

    def peer_decode(flash: bool, before: Sequence[int], count: int, sequences: int) -> Callable[[], float]:
        room = len(before) + count + 8
        context = peer.ask("open", tokens=room, sequences=sequences, flash=flash)["context"]
        peer.ask("prompt", context=context, ids=list(before))
        peer.ask("keep", context=context)
        new = token_ids(count, vocab, 7)
        return lambda: peer.ask("decode", context=context, ids=new, sequences=sequences)["seconds"]

    def both(make: Callable[[bool], Callable[[], float]]) -> dict[str, Callable[[], float]]:
        return {"flash attention " + ("on" if flash else "off"): make(flash) for flash in sizes.flash}

    def decode_reads(start: int, count: int, sequences: int = 1) -> float:
        return sum(counted_reads(model, [(1, start + i + 1)] * sequences) for i in range(count))

    pieces = [min(chunk, sizes.prompt - first) for first in range(0, sizes.prompt, chunk)]
    return [
        Case(
            f"pp{sizes.prompt}",
            sizes.prompt,
            sum(counted_reads(model, [(piece, i * chunk + piece)]) for i, piece in enumerate(pieces)),
            lambda: time_prompt(engine, ids),
            both(peer_prompt),
        ),
        Case(
            f"tg{sizes.output}",
            sizes.output,
            decode_reads(1, sizes.output),
            lambda: time_decode(engine, [short], sizes.output),
            both(lambda flash: peer_decode(flash, short, sizes.output, 1)),
        ),
        Case(
            f"{SEQUENCES} x tg{sizes.batch_output}",
            SEQUENCES * sizes.batch_output,
            decode_reads(BEFORE_BATCH, sizes.batch_output, SEQUENCES),
            lambda: time_decode(engine, many, sizes.batch_output),
            both(lambda flash: peer_decode(flash, many[0], sizes.batch_output, SEQUENCES)),
        ),
        Case(
            f"tg{sizes.depth_output} @ d{sizes.depth}",
            sizes.depth_output,
            decode_reads(sizes.depth, sizes.depth_output),
            lambda: time_decode(engine, [deep], sizes.depth_output),
            both(lambda flash: peer_decode(flash, deep, sizes.depth_output, 1)),
        ),
    ]


def measure(name: str, peer: Peer, sizes: Sizes, threads: int) -> tuple[list[Row], str]:
    """All rows of one model, and what llama.cpp says of itself."""
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
        setting,
    )


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def print_table(rows: Sequence[Row], sizes: Sizes, threads: int, quick: bool) -> None:
    """The rows for people."""
    short = "; --quick: fewer rounds, shorter cases, flash attention always on" if quick else ""
    print(f"{threads} threads, medians of {sizes.rounds} interleaved rounds{short}")
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
    parser.add_argument("--rounds", type=int, default=None, help="counted rounds (default 7; quick: 2)")
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
        for model in args.models:
            found, about = measure(model, peer, sizes, args.threads)
            rows += found
    say(about)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows, sizes, args.threads, args.quick)


if __name__ == "__main__":
    main()
