"""Products with bit planes and outlier-victim pairs beside plain 4-bit ones, interleaved, on this processor.

    python benchmarks/low_bit_products.py [--threads 2] [--isa avx2] [--rounds 15] [--tokens 1 4 16 256]

1536 x 1536 matrices in rotation, 40 MB of 4-bit ones, so that a large last cache holds them. Rows of the
table: a stored format and what activations are rounded to; microseconds a product (the least of the rounds,
since a product alone has no noise of its own) and, in brackets, over that of q4_0, whose activations are int8
in blocks of 32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import quiet_torch
import torch

from twofold.kernels.cpu import extension
from twofold.kernels.cpu.planes import pack as pack_planes
from twofold.techniques.weights.bit_planes import pack_bits

SIDE, GROUP, TOTAL = 1536, 128, 40_000_000
Submit = Callable[[torch.Tensor, int, torch.Tensor], None]


def strips(stream: Any, fmt: str, *, exact: bool) -> list[Submit]:
    """Products with a format of blocks; random codes."""
    native = extension()
    nbytes = native.packed_bytes(fmt, SIDE, SIDE)
    pool = torch.full((TOTAL // nbytes, nbytes), 17, dtype=torch.uint8)

    def of(matrix: torch.Tensor) -> Submit:
        def plain(x: torch.Tensor, tokens: int, y: torch.Tensor) -> None:
            segments = [(fmt, matrix.data_ptr(), SIDE)]
            native.linear(stream, segments, SIDE, x.data_ptr(), tokens, 0, y.data_ptr(), exact)

        def blocks(x: torch.Tensor, tokens: int, y: torch.Tensor) -> None:
            where = matrix.data_ptr()
            native.block_linear(stream, fmt, where, 1.0, SIDE, SIDE, x.data_ptr(), tokens, 0, y.data_ptr(), 0)

        return plain if fmt.startswith("q") else blocks

    return [of(matrix) for matrix in pool]


def planes(stream: Any, coded: bool, count: int, bits: int) -> list[Submit]:
    """Products with bit planes; random bits."""
    native, group = extension(), GROUP
    generator = torch.Generator().manual_seed(count)
    raw = torch.rand(SIDE, count, SIDE, generator=generator) < 0.5
    factors = torch.rand(SIDE, SIDE // group, count + 1 if coded else 1, generator=generator).half()
    one = pack_planes(coded, pack_bits(raw), factors, group, SIDE)
    pool = [one.clone() for _ in range(TOTAL // one.numel())]

    def of(matrix: torch.Tensor) -> Submit:
        def run(x: torch.Tensor, tokens: int, y: torch.Tensor) -> None:
            where = matrix.data_ptr()
            native.plane_linear(
                stream, coded, count, group, where, SIDE, SIDE, x.data_ptr(), tokens, 0, y.data_ptr(), bits
            )

        return run

    return [of(matrix) for matrix in pool]


def pairs(stream: Any, name: str, scale: float) -> list[Submit]:
    """Products with outlier-victim pairs; random codes, an outlier in about every eighth pair of 4-bit
    codes."""
    native = extension()
    nbytes = SIDE * SIDE * (1 if name == "ovp-int8" else 4) // (1 if name == "ovp-int8" else 8)
    pool = torch.randint(0, 256, (TOTAL // nbytes, nbytes), dtype=torch.uint8)
    scales = torch.ones(SIDE)

    def of(matrix: torch.Tensor) -> Submit:
        def run(x: torch.Tensor, tokens: int, y: torch.Tensor) -> None:
            where, factors = matrix.data_ptr(), scales.data_ptr()
            native.pair_linear(
                stream, name, where, factors, SIDE, SIDE, x.data_ptr(), tokens, 0, y.data_ptr(), scale
            )

        return run

    return [of(matrix) for matrix in pool]


def cases(stream: Any, tokens: int) -> dict[str, list[Submit]]:
    """All products by name; the first is what others are compared with. Binary codes are looked up in tables
    for few tokens, as the technique does."""
    tables = int(tokens <= 8)
    found = {
        "q4_0, int8": strips(stream, "q4_0", exact=False),
        "q4_0, float32": strips(stream, "q4_0", exact=True),
        "int4-g128, float32": strips(stream, "int4-g128", exact=True),
    }
    for q in (2, 3, 4):
        found[f"lut-gemm q={q}, float32"] = planes(stream, True, q, tables)
    for w, a in ((1, 1), (1, 2), (2, 2), (3, 4), (4, 4), (4, 8), (8, 8)):
        found[f"bipolar-int W{w}A{a}"] = planes(stream, False, w, a)
    found["olive int4, int4 pairs"] = pairs(stream, "ovp-int4", 0.2)
    for name in ("int4", "flint4", "int8"):
        found[f"olive {name}, float32"] = pairs(stream, f"ovp-{name}", 0.0)
    return found


def measure(threads: int, rounds: int, tokens: int) -> dict[str, float]:
    """Seconds of a product by name, interleaved."""
    native = extension()
    stream = native.Stream(threads)
    x, y = torch.randn(tokens, SIDE), torch.empty(tokens, SIDE)
    programs = {}
    kept = cases(stream, tokens)
    for name, pool in kept.items():
        chosen = pool if tokens < 64 else pool[:4]
        program = native.Program(stream)
        program.record()
        for submit in chosen:
            submit(x, tokens, y)
        program.end()
        programs[name] = (program, len(chosen))
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(rounds):
        for name, (program, count) in programs.items():
            start = time.perf_counter()
            program.run()
            best[name] = min(best[name], (time.perf_counter() - start) / count)
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=extension().supported_isas())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 16, 256])
    args = parser.parse_args()
    if args.isa:
        extension().use_isa(args.isa)
    print(f"{extension().isa()}, {args.threads} threads, {SIDE} x {SIDE}, groups of {GROUP}")
    found = {tokens: measure(args.threads, args.rounds, tokens) for tokens in args.tokens}
    names = list(found[args.tokens[0]])
    print(f"{'':28}" + "".join(f"{f'{tokens} tokens':>20}" for tokens in args.tokens))
    for name in names:
        cells = []
        for tokens in args.tokens:
            taken, plain = found[tokens][name], found[tokens][names[0]]
            cells.append(f"{f'{taken * 1e6:.0f} us ({taken / plain:.2f})':>20}")
        print(f"{name:28}" + "".join(cells))


if __name__ == "__main__":
    assert quiet_torch
    main()
