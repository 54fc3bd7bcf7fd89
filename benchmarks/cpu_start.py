"""Start and memory of `twofold generate`: seconds from starting the process to its first output, and its peak
memory beside what weights and cache take; prints a table.

    python benchmarks/cpu_start.py [--models smollm2-135m gemma3-270m] [--rounds 7] [--output 32] [--json]

Every round is a process of its own; the first, which is not counted, brings the files into memory (and packs
the weights where that was never done). Peak memory is the most that was resident at once, files that are only
mapped included, as Linux and macOS report it of an ended process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from twofold.jobs.session import Session
from twofold.plan import Plan

PROMPT = "Write one sentence about the sea."


@dataclass(frozen=True, slots=True)
class Row:
    """One model: medians. first_token_s: from starting the process; peak_bytes: resident; over_bytes: of them
    beyond weights and reserved cache."""

    model: str
    first_token_s: float
    total_s: float
    peak_bytes: int
    weight_bytes: int
    cache_bytes: int
    over_bytes: int


def run_once(model: str, output: int) -> tuple[float, float, int]:
    """(seconds to the first byte of output, seconds to the end, peak resident bytes) of one process."""
    command = [sys.executable, "-m", "twofold", "generate", PROMPT, "--model", model]
    command += ["--max-tokens", str(output), "--temperature", "0"]
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0)
        assert process.stdout is not None
        first = process.stdout.read(1)
        first_at = time.perf_counter() - start
        while process.stdout.read(1 << 16):
            pass
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not first:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return first_at, seconds, usage.ru_maxrss * unit


def measure(model: str, rounds: int, output: int) -> Row:
    """The row of one model."""
    runs = []
    for number in range(rounds + 1):
        print(f"{model}: round {number} of {rounds}", file=sys.stderr, flush=True)
        run = run_once(model, output)
        if number:
            runs.append(run)
    memory = Session(Plan(model=model)).engine.memory
    first, total, peak = (statistics.median(run[i] for run in runs) for i in range(3))
    over = int(peak) - memory.weights - memory.cache
    return Row(model, first, total, int(peak), memory.weights, memory.cache, over)


def print_table(rows: Sequence[Row], rounds: int) -> None:
    """The rows for people."""
    print(f"medians of {rounds} processes; MB is 10⁶ bytes")
    heads = f"{'peak MB':>8} {'weights':>8} {'cache':>6} {'over':>6}"
    print(f"{'model':16} {'first token s':>13} {'total s':>8} {heads}")
    for row in rows:
        sizes = (row.peak_bytes, row.weight_bytes, row.cache_bytes, row.over_bytes)
        peak, weights, cache, over = (size / 1e6 for size in sizes)
        print(
            f"{row.model:16} {row.first_token_s:13.2f} {row.total_s:8.2f} "
            f"{peak:8.0f} {weights:8.0f} {cache:6.0f} {over:6.0f}"
        )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [measure(model, args.rounds, args.output) for model in args.models]
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print_table(rows, args.rounds)


if __name__ == "__main__":
    main()
