"""Bare matrix-vector products of packed weights: Twofold's native kernels against ggml's own; prints a table.

    python benchmarks/matvec_vs_ggml.py [--threads 1 2] [--rounds 7] [--formats q4_0 q8_0 q4_k] [--quick]
                                        [--ggml libggml|llama_cpp] [--isa NAME] [--peer-python PATH]
                                        [--json] [--save FILE] [--markdown FILE]

It needs ggml's libraries, either prebuilt (no more than AVX2) or as compiled with llama-cpp-python:

    pip install libggml-python
    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36

`--save docs/data/matvec.json` stores what `make docs` makes the table in docs/matvec.md from. `--peer-python`
names the interpreter of another environment that has them; ggml runs in a process of its own
either way. `--isa` holds ours to the instruction set that the peer was built for.

Both multiply the same weights, quantised by ggml, with the same float32 vector, and both quantise that vector
in every product. A timing is one call that runs many products one after the other: ggml's a graph of
`ggml_mul_mat`, ours a recorded program. `hot` uses one matrix again and again, `cold` goes through copies
that together exceed the last cache. ggml's weights are rearranged as llama.cpp would and as stored; the
faster way counts. Before timing, both results are held against the product with the widened weights.
Interleaved A B A B; medians of the rounds, after one that is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quiet_torch
import torch
from peer import Peer

from twofold.jobs.docs import rewrite
from twofold.jobs.docs_sections import matvec
from twofold.kernels.cpu import native, why_missing
from twofold.models.gguf_formats import GGML_FORMATS
from twofold.models.gguf_types import widener
from twofold.ops.formats import get_format
from twofold.report.host import Host
from twofold.report.matvec import MatvecRow, MatvecTable

INSTALL = (
    "Install it with: pip install libggml-python; or name an interpreter that has it: --peer-python PATH"
)
SHAPES = (
    *((n, n) for n in (576, 1536, 2048, 4096, 8192)),
    *((1536, 576), (576, 1536), (8192, 2048), (2048, 8192)),
)
"""Rows and columns: squares, and the MLPs of models 576 and 2,048 wide."""
QUICK_SHAPES = ((576, 576), (1536, 576), (2048, 2048))
DISTINCT_ROWS = 512
"""Rows that are quantised; larger matrices repeat them, which no kernel can tell."""
PER_TIMING = 256 << 20
"""Weight bytes that a timing goes through, at least."""
CLOSE = 0.1
"""Tolerance of a result: its largest error, of 8-bit activations, over the result's root mean square."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One product: format, shape, the file of its blocks, its vector, and the exact result."""

    format: str
    rows: int
    cols: int
    blocks: torch.Tensor
    files: dict[str, str]
    x: torch.Tensor
    exact: torch.Tensor


def last_cache() -> int:
    """Bytes of the largest cache (32 MiB where the system does not tell)."""
    sizes = [f.read_text().strip() for f in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max([int(s[:-1]) * {"K": 1 << 10, "M": 1 << 20}[s[-1]] for s in sizes], default=32 << 20)


def make_problem(peer: Peer, fmt: str, rows: int, cols: int, folder: Path) -> Problem:
    """Random weights of standard deviation 1, quantised by ggml."""
    generator = torch.Generator().manual_seed(rows * 65537 + cols)
    number = next(n for n, name in GGML_FORMATS.items() if name == fmt)
    distinct = min(rows, DISTINCT_ROWS)
    files = {name: str(folder / name) for name in ("source", "weights", "x", "y")}
    torch.randn(distinct, cols, generator=generator).numpy().tofile(files["source"])
    peer.ask(
        "quantise", type=number, rows=distinct, cols=cols, source=files["source"], target=files["weights"]
    )
    some = torch.frombuffer(bytearray(Path(files["weights"]).read_bytes()), dtype=torch.uint8)
    blocks = some.view(distinct, -1).repeat(-(-rows // distinct), 1)[:rows].contiguous().flatten()
    blocks.numpy().tofile(files["weights"])
    x = torch.randn(cols, generator=generator)
    x.numpy().tofile(files["x"])
    widened = widener(fmt)(some, (distinct, cols)).double() @ x.double()
    exact = widened.repeat(-(-rows // distinct))[:rows]
    return Problem(fmt, rows, cols, blocks, files, x, exact)


def check(who: str, y: torch.Tensor, problem: Problem) -> None:
    """SystemExit where `y` is not the product: a wrong result has no speed."""
    error = float((y.double() - problem.exact).abs().max() / problem.exact.square().mean().sqrt())
    if not error < CLOSE:
        raise SystemExit(
            f"{who}: {problem.format} product {problem.rows} x {problem.cols} is off by {error:.3f} of its "
            "root mean square"
        )


def ours(problem: Problem, copies: int, nodes: int, threads: int) -> Callable[[], float]:
    """A timing of `nodes` recorded products over `copies` packed matrices in turn: seconds."""
    extension: Any = native()
    size = extension.packed_bytes(problem.format, problem.rows, problem.cols)
    aligned = -(-size // 64) * 64
    memory = torch.empty(copies * aligned + 64, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    addresses = [memory.data_ptr() + start + i * aligned for i in range(copies)]
    extension.pack(problem.format, problem.blocks.data_ptr(), problem.rows, problem.cols, addresses[0])
    for i in range(1, copies):
        memory[start + i * aligned :][:size] = memory[start:][:size]
    stream = extension.Stream(threads)
    program = extension.Program(stream)
    y = torch.empty(nodes, problem.rows)
    program.record()
    for node in range(nodes):
        segment = (problem.format, addresses[node % copies], problem.rows)
        extension.linear(
            stream, [segment], problem.cols, problem.x.data_ptr(), 1, 0, y[node].data_ptr(), False
        )
    program.end()
    check("twofold", y[-1], problem)
    kept = (memory, y, stream, problem)  # the program holds addresses alone

    def timing() -> float:
        assert kept
        begin = time.perf_counter()
        program.run(0, nodes)
        return time.perf_counter() - begin

    return timing


def time_peer(peer: Peer, problem: Problem, **graph: Any) -> bool:
    """Make the peer's graph and check its result. Returns whether its weights are rearranged."""
    number = next(n for n, name in GGML_FORMATS.items() if name == problem.format)
    files = problem.files
    made = peer.ask(
        "make",
        type=number,
        rows=problem.rows,
        cols=problem.cols,
        weights=files["weights"],
        x=files["x"],
        **graph,
    )
    peer.ask("time")
    peer.ask("result", target=files["y"])
    check("ggml", torch.frombuffer(bytearray(Path(files["y"]).read_bytes()), dtype=torch.float32), problem)
    return bool(made["repacked"])


def measure(peer: Peer, problem: Problem, threads: int, cold: bool, rounds: int, quick: bool) -> MatvecRow:
    """One row of the table."""
    stored = problem.blocks.numel()
    copies = max(2, -(-int(1.25 * last_cache()) // stored)) if cold else 1
    budget = PER_TIMING // 8 if quick and not cold else PER_TIMING
    nodes = max(copies, min(4096, -(-budget // stored)))
    graph = {"copies": copies, "nodes": nodes, "threads": threads}
    mine = ours(problem, copies, nodes, threads)
    ways = {True: "rearranged", False: "as stored"}
    best: tuple[float, float, float, str] | None = None
    for repack in (True, False):
        if time_peer(peer, problem, **graph, repack=repack) != repack:
            continue  # there is no rearranged form of this format
        pairs = [(mine(), peer.ask("time")["seconds"]) for _ in range(rounds + 1)][1:]
        a, b = (statistics.median(p[i] for p in pairs) / nodes for i in (0, 1))
        ratio = statistics.median(theirs / us for us, theirs in pairs)
        if best is None or b < best[1]:
            best = (a, b, ratio, ways[repack])
    assert best is not None
    return MatvecRow(
        format=problem.format,
        rows=problem.rows,
        cols=problem.cols,
        threads=threads,
        cold=cold,
        ours_us=best[0] * 1e6,
        theirs_us=best[1] * 1e6,
        ours_gb_s=stored / best[0] / 1e9,
        theirs_gb_s=stored / best[1] / 1e9,
        ratio=best[2],
        their_weights=best[3],
    )


def measure_all(args: argparse.Namespace) -> MatvecTable:
    """The whole table."""
    extension: Any = native()
    if extension is None:
        raise SystemExit(why_missing())
    if args.isa is not None:
        if args.isa not in extension.supported_isas():
            raise SystemExit(f"--isa {args.isa}: here are {', '.join(extension.supported_isas())}")
        extension.use_isa(args.isa)
    shapes = QUICK_SHAPES if args.quick else SHAPES
    rows: list[MatvecRow] = []
    script = Path(__file__).with_name("ggml_peer.py")
    with (
        Peer(args.peer_python, script, args.ggml, INSTALL, quiet_torch.ENVIRONMENT) as peer,
        tempfile.TemporaryDirectory() as folder,
    ):
        about = peer.ask("load", package=args.ggml)
        for fmt in args.formats:
            for height, width in shapes:
                block = get_format(fmt).block
                if width % block:
                    say(f"{fmt} {height} x {width}: left out, its rows are not whole blocks of {block}")
                    continue
                problem = make_problem(peer, fmt, height, width, Path(folder))
                for threads in args.threads:
                    for cold in (False, True):
                        say(f"{fmt} {height} x {width}, {threads} threads, {'cold' if cold else 'hot'}")
                        rows.append(measure(peer, problem, threads, cold, args.rounds, args.quick))
    return MatvecTable(
        processor=Host.here().processor,
        isa=extension.isa(),
        ggml=about["version"],
        ggml_features=about["features"],
        rounds=args.rounds,
        rows=rows,
    )


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def print_table(table: MatvecTable) -> None:
    """The rows for people."""
    print(table.caption())
    print(f"{'':6} {'rows x cols':>12} {'thr':>3} {'':5} {'twofold us':>10} {'ggml us':>9} {'GB/s':>6} "
          f"{'ggml':>6} {'ratio':>7}  ggml's weights")  # fmt: skip
    for row in table.rows:
        print(
            f"{row.format:6} {f'{row.rows} x {row.cols}':>12} {row.threads:3} "
            f"{'cold' if row.cold else 'hot':5} "
            f"{row.ours_us:10.1f} {row.theirs_us:9.1f} {row.ours_gb_s:6.1f} {row.theirs_gb_s:6.1f} "
            f"{row.ratio:6.2f}x  {row.their_weights}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure (or read what was measured), print or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", default=["q4_0", "q8_0", "q4_k"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three small shapes, less work per timing")
    parser.add_argument("--ggml", choices=("libggml", "llama_cpp"), default="libggml", help="whose libraries")
    parser.add_argument("--isa", help="instruction set of ours (default: the best one here)")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the libraries")
    parser.add_argument("--json", action="store_true", help="a list of rows")
    parser.add_argument("--save", type=Path, help="write everything to this JSON file")
    parser.add_argument("--markdown", type=Path, help="put the table between the markers of this file")
    args = parser.parse_args(arguments)
    table = measure_all(args)
    if args.save:
        table.write(args.save)
    if args.markdown:
        rewrite(args.markdown, {"matvec": lambda: matvec([table])})
    if args.json:
        print(json.dumps([row.model_dump() for row in table.rows], indent=2))
    else:
        print_table(table)


if __name__ == "__main__":
    main()
