"""`twofold bench serve` against guidellm on the same server with the same load, interleaved A B A B; prints a
table and the difference.

    python -m venv /tmp/guidellm && /tmp/guidellm/bin/pip install guidellm==0.8.1
    python benchmarks/serve_peer.py --guidellm /tmp/guidellm/bin/guidellm [--url http://127.0.0.1:8000]

Without --url it starts a server that answers by an absolute schedule (first token after --first seconds, each
further one --gap later), so that the true figures are known too. Each round has texts of its own, equal in
length, so that no prefix cache helps whoever comes second.

What differs by name: their "inter token latency" is (last - first) / (tokens - 1) of a request, where tokens
are pieces with text unless the server tells usage; weighed by tokens its mean is that of all pauses between
pieces, which is ITL here. They are told to ask for no usage, for they would ask for it with every piece,
which not every server knows. Their "time per output token" is the whole request over its tokens, and is not
compared. First and last token are the first and last pieces with text in both. Throughput is the tokens that
were asked for (the server is held to them by ignore_eos) from the first sending to the last end, computed
from their list of requests, for their own figure is a mean over time. Their clock starts as headers are
written, ours just before; neither counts the making of a body.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twofold.loadgen.counting import WordCounter
from twofold.loadgen.prompts import PromptMaker

ROOT = Path(__file__).resolve().parents[1]
FIGURES = (("TTFT mean", "ms"), ("TTFT median", "ms"), ("ITL mean", "ms"), ("end to end mean", "ms"))
FIGURES += (("output", "token/s"),)
Figures = dict[str, float]


@contextmanager
def steady_server(first: float, gap: float) -> Iterator[str]:
    """The address of a server of known timing, in a process of its own."""
    command = [sys.executable, "-m", "tests.loadgen.fake_server", "--first", str(first), "--gap", str(gap)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("\n")


def texts(args: argparse.Namespace, name: str) -> list[str]:
    """Prompts that no other round has."""
    maker = PromptMaker(WordCounter(), seed=f"{args.seed}:{name}")

    async def make() -> list[str]:
        return [await maker.make(i, args.prompt) for i in range(args.requests)]

    return asyncio.run(make())


def ours(url: str, args: argparse.Namespace, prompts: list[str], folder: Path) -> tuple[Figures, str]:
    """Figures of `twofold bench serve`, and what it costs."""
    file = folder / "prompts.txt"
    file.write_text("\n".join(prompts))
    load = ["--concurrency", str(args.concurrency)]
    if args.rate:
        load = ["--rate", str(args.rate), "--arrivals", "constant"]
    command = [sys.executable, "-m", "twofold", "bench", "serve", url, *load]
    command += ["--requests", str(args.requests), "--output", str(args.output), "--prompts", str(file)]
    command += ["--endpoint", args.endpoint, "--here", "none", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    (point,) = json.loads(done.stdout)["points"]
    m = point["measured"]
    if m["completed"] != args.requests:
        raise SystemExit(f"{m['completed']} of {args.requests} requests were answered: {m['messages']}")
    if m["short"]:
        raise SystemExit(f"{m['short']} answers are shorter than asked for")
    ttft, itl, e2e = (m["latencies"][name] for name in ("ttft", "itl", "e2e"))
    figures = (
        ttft["mean"] * 1e3,
        ttft["p50"] * 1e3,
        itl["mean"] * 1e3,
        e2e["mean"] * 1e3,
        m["tokens_per_s"],
    )
    cost = f"{m['generator']['cpu'] / m['output_tokens'] * 1e6:.0f} us of processor time per token"
    return dict(zip((name for name, _ in FIGURES), figures, strict=True)), cost


def theirs(url: str, args: argparse.Namespace, prompts: list[str], folder: Path) -> Figures:
    """Figures of guidellm."""
    data, out = folder / "prompts.jsonl", folder / "guidellm.json"
    rows = ({"prompt": text, "output_tokens_count": args.output} for text in prompts)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = "/v1/chat/completions" if args.endpoint == "chat" else "/v1/completions"
    extras = {"body": {"temperature": 0, "stream_options": None}}
    backend = json.dumps({"kind": "openai_http", "target": url, "request_format": path, "extras": extras})
    profile = f"kind=concurrent,streams={args.concurrency}"
    if args.rate:
        profile = f"kind=constant,rate={args.rate}"
    command = [args.guidellm, "run", "--backend", backend, "--profile", profile]
    command += ["--constraint", f"kind=max_requests,count={args.requests}"]
    command += [
        "--data",
        f"kind=json_file,path={data}",
        "--disable-console",
        "--output",
        f"kind=json,path={out}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not out.exists():
        raise SystemExit(done.stdout + done.stderr)
    (benchmark,) = json.loads(out.read_text())["benchmarks"]
    requests: list[dict[str, Any]] = benchmark["requests"]["successful"]
    if len(requests) != args.requests:
        raise SystemExit(f"guidellm: {len(requests)} of {args.requests} requests were answered")
    metrics = benchmark["metrics"]
    ttft, itl = (metrics[n]["successful"] for n in ("time_to_first_token_ms", "inter_token_latency_ms"))
    seconds = max(r["request_end_time"] for r in requests) - min(r["request_start_time"] for r in requests)
    e2e = metrics["request_latency"]["successful"]["mean"] * 1e3
    speed = args.requests * args.output / seconds
    figures = (ttft["mean"], ttft["median"], itl["mean"], e2e, speed)
    return dict(zip((name for name, _ in FIGURES), figures, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--guidellm", required=True, help="the program, in an environment of its own")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--first", type=float, default=0.2)
    parser.add_argument("--gap", type=float, default=0.02)
    parser.add_argument("--endpoint", choices=("chat", "completions"), default="chat")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--rate", type=float, help="open loop, constant, instead of --concurrency")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.url:
            rows = compare(args.url, args, folder)
        else:
            with steady_server(args.first, args.gap) as url:
                rows = compare(url, args, folder)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        version = subprocess.run([args.guidellm, "--version"], capture_output=True, text=True, check=True)
        print(f"\n{version.stdout.strip()}; medians of {args.rounds} rounds\n")
        print("| figure | ours | guidellm | difference |\n| --- | ---: | ---: | ---: |")
        for row in rows:
            print(
                f"| {row['figure']} | {row['ours']:.2f} {row['unit']} | {row['theirs']:.2f} {row['unit']} "
                f"| {row['difference']:+.1%} |"
            )


def compare(url: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Medians over rounds of both, and the difference."""
    a: list[Figures] = []
    b: list[Figures] = []
    for number in range(args.rounds):
        figures, cost = ours(url, args, texts(args, f"a{number}"), folder)
        a.append(figures)
        b.append(theirs(url, args, texts(args, f"b{number}"), folder))
        print(f"round {number + 1}: {cost}", file=sys.stderr)
    rows = []
    for figure, unit in FIGURES:
        x, y = (statistics.median(f[figure] for f in found) for found in (a, b))
        rows.append({"figure": figure, "unit": unit, "ours": x, "theirs": y, "difference": x / y - 1})
    return rows


if __name__ == "__main__":
    main()
