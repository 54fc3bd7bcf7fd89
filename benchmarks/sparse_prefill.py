"""Time to the first token of a long prompt, with all of its attention and with what minference computes of
it; prints a table.

    python benchmarks/sparse_prefill.py [--model smollm2-135m] [--prompts 4096 8000] [--ratio 0.08]
                                        [--repeats 3] [--threads 2] [--json]

Engines take turns, so that whatever else the machine does meets both; the fastest of the repeats counts.
Quality is that of the second half of 2,048 tokens of prose against full attention.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.run import load_engine
from twofold.kernels.cpu.threads import default_threads
from twofold.models.find import find_checkpoint
from twofold.plan import Plan
from twofold.workloads.text import prose

QUALITY_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """One length of prompt: seconds to the first token of both, their ratio, share of the query-key pairs
    that sparse attention computes."""

    prompt: int
    full_s: float
    sparse_s: float
    speedup: float
    pairs: float


def plan_of(args: argparse.Namespace, techniques: list[str]) -> Plan:
    """The plan with `techniques`."""
    limits = {"threads": args.threads, "max_num_seqs": 1, "max_context": max(args.prompts) + 1}
    return Plan.from_dict(
        {"model": args.model, "techniques": techniques, "engine": {**limits, "prefix_caching": False}}
    )


def first_token(engine: Engine, ids: list[int]) -> float:
    """Seconds until the first token behind `ids`."""
    begun = time.perf_counter()
    engine.generate([ids], SamplingParams(max_tokens=1, ignore_eos=True))
    return time.perf_counter() - begun


def compare(full: Engine, sparse: Engine, ids: list[int], repeats: int) -> Row:
    """Both on the same prompt, in turns."""
    counters = sparse.actives[0].counters
    times = [(first_token(full, ids), first_token(sparse, ids)) for _ in range(repeats)]
    found = {name: value - counters[name] for name, value in sparse.actives[0].counters.items()}
    fastest = [min(column) for column in zip(*times, strict=True)]
    pairs = found["pairs_computed"] / (found["pairs_computed"] + found["pairs_skipped"])
    return Row(len(ids), fastest[0], fastest[1], fastest[0] / fastest[1], pairs)


def quality(full: Engine, sparse: Engine, ids: list[int]) -> tuple[float, float]:
    """Mean KL divergence from full attention, and how often the likeliest token is the same."""
    ours, theirs = (engine.score(ids, len(ids) // 2).log_softmax(-1) for engine in (sparse, full))
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    return float(divergence), float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4096, 8000])
    parser.add_argument("--ratio", type=float, default=0.08)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    checkpoint = find_checkpoint(args.model)
    ids = checkpoint.text_tokenizer().encode(prose(), special=False)
    ids = (ids * (max(args.prompts) // len(ids) + 1))[: max(args.prompts)]
    technique = f"minference:ratio={args.ratio}"
    with (
        closing(load_engine(plan_of(args, []), checkpoint)) as full,
        closing(load_engine(plan_of(args, [technique]), checkpoint)) as sparse,
    ):
        rows = [compare(full, sparse, ids[:length], args.repeats) for length in args.prompts]
        divergence, agreement = quality(full, sparse, ids[: min(QUALITY_TOKENS, *args.prompts)])
    if args.json:
        found = {"rows": [asdict(row) for row in rows], "kl": divergence, "top1": agreement}
        print(json.dumps(found, indent=1))
        return
    print(f"{'prompt':>8} {'full s':>8} {'sparse s':>9} {'speed-up':>9} {'pairs':>7}")
    for row in rows:
        times = f"{row.full_s:8.2f} {row.sparse_s:9.2f} {row.speedup:8.2f}×"
        print(f"{row.prompt:8} {times} {100 * row.pairs:6.1f}%")
    print(f"KL divergence {divergence:.4f}, top-1 agreement {100 * agreement:.1f}%")


if __name__ == "__main__":
    main()
