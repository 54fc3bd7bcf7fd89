"""Products with packed weights by format and columns, and what reading them reaches: figures of decision 5.

    python benchmarks/strips.py [--threads 2] [--isa avx2] [--rounds 15]

1536 x 1536 matrices in rotation: 40 MB of them stay in a large last cache, 700 MB come from memory. Best of
the rounds, since a product alone has no noise of its own.
"""

from __future__ import annotations

import argparse
import time

import quiet_torch
import torch

from twofold.kernels.cpu import extension

SIDE = 1536
FORMATS = ("q4_1", "q4_k", "q6_k", "q8_0")


def seconds(fmt: str, columns: int, total: int, threads: int, rounds: int) -> tuple[float, int]:
    """(seconds, packed bytes) of one product."""
    native = extension()
    stream = native.Stream(threads)
    nbytes = native.packed_bytes(fmt, SIDE, SIDE)
    pool = torch.full((max(2, total // nbytes), nbytes), 17, dtype=torch.uint8)
    x, y = torch.randn(columns, SIDE), torch.empty(columns, SIDE)
    program = native.Program(stream)
    program.record()
    for matrix in pool:
        segments = [(fmt, matrix.data_ptr(), SIDE)]
        native.linear(stream, segments, SIDE, x.data_ptr(), columns, 0, y.data_ptr(), False)
    program.end()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        program.run()
        times.append(time.perf_counter() - start)
    return min(times) / len(pool), nbytes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=extension().supported_isas())
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if args.isa:
        extension().use_isa(args.isa)
    print(f"{extension().isa()}, {args.threads} threads, {SIDE} x {SIDE}")
    for fmt in FORMATS:
        cells = []
        for columns in (1, 4, 8, 64):
            taken, _ = seconds(fmt, columns, 40_000_000, args.threads, args.rounds)
            rate = 2 * columns * SIDE * SIDE / taken / 1e9
            cells.append(f"{columns} columns {taken * 1e6:.0f} us ({rate:.0f} GFLOP/s)")
        for total in (40_000_000, 700_000_000):
            taken, nbytes = seconds(fmt, 1, total, args.threads, args.rounds)
            cells.append(f"{total // 1_000_000} MB {nbytes / taken / 1e9:.1f} GB/s")
        print(f"{fmt}: {', '.join(cells)}")


if __name__ == "__main__":
    assert quiet_torch
    main()
