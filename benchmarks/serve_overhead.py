"""What serving costs beside the engine alone: throughput, and time per streamed token.

    python benchmarks/serve_overhead.py [--model smollm2-135m] [--rounds 7] [--requests 32] [--json]

The same prompts go through the engine in this process (offline, as `twofold run` plays a workload) and
through `twofold serve` by HTTP, streamed and whole, interleaved; medians of the rounds' ratios. All share
this machine's cores, the clients included, which read and count and parse nothing.

throughput       generated tokens per second, served over offline, at concurrency 8
server CPU       processor time of the server process (HTTP, JSON, events; not the worker) per token
client TPOT      seconds per token after the first as a client sees it, less those of the engine alone, at
                 concurrency 1: everything that serving adds to a token's way
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import quiet_torch  # noqa: F401
from serving import Answer, Server, cpu_seconds, drive, http, mean, serving

from twofold.engine.engine import Engine
from twofold.jobs.run import load_engine, play, warm_up
from twofold.models.find import find_checkpoint
from twofold.plan import Plan
from twofold.workloads.workload import Workload, make_workload

MOST_LOSS, MOST_SECONDS = 0.10, 0.3e-3
"""What is aimed at: share of throughput lost, seconds of overhead per streamed token."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run: generated tokens per second, mean seconds per token after the first (0 where the answers were
    whole), and the server's processor time per token (0 offline)."""

    rate: float
    tpot: float
    cpu: float = 0.0


def offline(engine: Engine, workload: Workload) -> Round:
    """The workload in this process."""
    played = play(engine, workload)
    tokens = sum(request.num_output_tokens for request in played.requests)
    tpots = [
        (r.last_token_time - r.first_token_time) / (r.num_output_tokens - 1)
        for r in played.requests
        if r.last_token_time is not None and r.first_token_time is not None
    ]
    return Round(tokens / played.seconds, mean(tpots))


def served(server: Server, model: str, workload: Workload, *, stream: bool) -> Round:
    """The workload by HTTP."""
    requests = []
    for item in workload.items:
        body = {"model": model, "prompt": list(item.prompt), "max_tokens": item.params.max_tokens}  # type: ignore[arg-type]
        body |= {"ignore_eos": True, "temperature": 0, "stream": stream}
        requests.append(http("POST", "/v1/completions", body))
    cpu, start = cpu_seconds(server.pid), time.perf_counter()
    answers = drive(server, requests, workload.concurrency or 1)
    seconds = time.perf_counter() - start
    cpu = cpu_seconds(server.pid) - cpu
    bad = [answer for answer in answers if answer.status != 200]
    if bad:
        raise SystemExit(f"{len(bad)} requests failed: {bytes(bad[0].body)!r}")
    tokens = sum(item.params.max_tokens for item in workload.items)
    tpot = mean(_tpot(a, workload.items[0].params.max_tokens) for a in answers) if stream else 0.0
    return Round(tokens / seconds, tpot, cpu / tokens)


def _tpot(answer: Answer, tokens: int) -> float:
    return (answer.times[-1] - answer.times[0]) / (tokens - 1)


def load(model: str, concurrency: int, requests: int, seed: int, vocab: int) -> Workload:
    """Prompts that no other round has."""
    plan = Plan.from_dict(
        {
            "model": model,
            "workload": {
                "requests": requests,
                "prompt": 128,
                "output": 128,
                "concurrency": concurrency,
                "seed": seed,
            },
        }
    )
    return make_workload(plan.workload, find_checkpoint(model).tokenizer, real=True, vocab=vocab)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    checkpoint = find_checkpoint(given.model)
    engine = load_engine(Plan.from_dict({"model": given.model}), checkpoint)
    vocab = checkpoint.spec.vocab_size
    found: dict[str, list[Round]] = {name: [] for name in ("offline", "stream", "whole", "one", "one stream")}
    with serving("--model", given.model) as server:
        for number in range(given.rounds + 1):
            many = load(given.model, 8, given.requests, number, vocab)
            few = load(given.model, 1, max(2, given.requests // 8), 1000 + number, vocab)
            if not number:
                warm_up(engine, many)
            cases = {
                "offline": lambda many=many: offline(engine, many),
                "stream": lambda many=many: served(server, given.model, many, stream=True),
                "whole": lambda many=many: served(server, given.model, _again(many), stream=False),
                "one": lambda few=few: offline(engine, few),
                "one stream": lambda few=few: served(server, given.model, few, stream=True),
            }
            for name, case in cases.items() if number % 2 else reversed(cases.items()):
                result = case()
                if number:  # the first round is not counted
                    found[name].append(result)
    report = summary(found)
    if given.json:
        print(json.dumps(report, indent=1))
        return
    for name, rounds in found.items():
        rates = statistics.median(r.rate for r in rounds)
        tpot = statistics.median(r.tpot for r in rounds)
        cpu = statistics.median(r.cpu for r in rounds)
        print(
            f"{name:12s} {rates:9.1f} token/s   TPOT {tpot * 1e3:7.3f} ms   server {cpu * 1e3:6.3f} ms/token"
        )
    for name, value in report.items():
        print(f"{name:42s} {value:.4g}")
    held = report["throughput streamed / offline"] >= 1 - MOST_LOSS
    held = held and report["client TPOT less the engine's, ms"] < MOST_SECONDS * 1e3
    print("both hold" if held else "NOT within the limits")


def _again(workload: Workload) -> Workload:
    """The same lengths with other prompts, which are in no prefix cache."""
    items = [
        item._replace(prompt=list(reversed(item.prompt))) if not isinstance(item.prompt, int | str) else item
        for item in workload.items
    ]
    return Workload(items, workload.concurrency, workload.summary)


def summary(found: dict[str, list[Round]]) -> dict[str, float]:
    """Medians over the rounds."""

    def median(pick: object, a: str, b: str) -> float:
        return statistics.median(pick(x, y) for x, y in zip(found[a], found[b], strict=True))  # type: ignore[operator]

    def share(x: Round, y: Round) -> float:
        return x.rate / y.rate

    def more(x: Round, y: Round) -> float:
        return (x.tpot - y.tpot) * 1e3

    def cpu(name: str) -> float:
        return statistics.median(r.cpu for r in found[name]) * 1e3

    return {
        "throughput streamed / offline": median(share, "stream", "offline"),
        "throughput whole / offline": median(share, "whole", "offline"),
        "server CPU per streamed token, ms (8 at once)": statistics.median(r.cpu for r in found["stream"])
        * 1e3,
        "server CPU per streamed token, ms (alone)": statistics.median(r.cpu for r in found["one stream"])
        * 1e3,
        "client TPOT less the engine's, ms": median(more, "one stream", "one"),
    }


if __name__ == "__main__":
    main()
