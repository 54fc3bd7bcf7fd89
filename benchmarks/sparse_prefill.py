"""Time to the first token of a long prompt, with all of its attention and with techniques that compute less
of it; prints a table.

python benchmarks/sparse_prefill.py [--model smollm2-135m] [--prompts 4096 8000] [--techniques
minference:ratio=0.08 gemfilter:keep=1024] [--repeats 3] [--threads 2] [--json]

Engines take turns, so that whatever else the machine does meets all of them; the fastest of the repeats
counts. Quality is that of the second half of 2,048 tokens of prose against full attention.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack, closing
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
    """One technique on one length of prompt: seconds to the first token without and with it."""

    technique: str
    prompt: int
    full_s: float
    sparse_s: float

    @property
    def speedup(self) -> float:
        """How many times sooner the first token comes."""
        return self.full_s / self.sparse_s


@dataclass(frozen=True, slots=True)
class Quality:
    """Against full attention: mean KL divergence in nats, share of equal likeliest tokens."""

    technique: str
    kl: float
    top1: float


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


def compare(full: Engine, sparse: dict[str, Engine], ids: list[int], repeats: int) -> list[Row]:
    """All on the same prompt, in turns."""
    engines = [full, *sparse.values()]
    times = [[first_token(engine, ids) for engine in engines] for _ in range(repeats)]
    fastest = [min(column) for column in zip(*times, strict=True)]
    return [
        Row(name, len(ids), fastest[0], seconds) for name, seconds in zip(sparse, fastest[1:], strict=True)
    ]


def quality(name: str, full: Engine, sparse: Engine, ids: list[int]) -> Quality:
    """Of the second half of `ids`."""
    ours, theirs = (engine.score(ids, len(ids) // 2).log_softmax(-1) for engine in (sparse, full))
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    return Quality(name, float(divergence), float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4096, 8000])
    parser.add_argument("--techniques", nargs="+", default=["minference:ratio=0.08", "gemfilter:keep=1024"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    checkpoint = find_checkpoint(args.model)
    ids = checkpoint.text_tokenizer().encode(prose(), special=False)
    ids = (ids * (max(args.prompts) // len(ids) + 1))[: max(args.prompts)]
    with ExitStack() as stack:
        full, *others = (
            stack.enter_context(closing(load_engine(plan_of(args, uses), checkpoint)))
            for uses in ([], *([name] for name in args.techniques))
        )
        sparse = dict(zip(args.techniques, others, strict=True))
        rows = [row for length in args.prompts for row in compare(full, sparse, ids[:length], args.repeats)]
        text = ids[: min(QUALITY_TOKENS, *args.prompts)]
        found = [quality(name, full, engine, text) for name, engine in sparse.items()]
    if args.json:
        print(json.dumps({"rows": list(map(asdict, rows)), "quality": list(map(asdict, found))}, indent=1))
        return
    print(f"{'technique':24} {'prompt':>8} {'full s':>8} {'sparse s':>9} {'speed-up':>9}")
    for row in rows:
        print(f"{row.technique:24} {row.prompt:8} {row.full_s:8.2f} {row.sparse_s:9.2f} {row.speedup:8.2f}×")
    for told in found:
        print(f"{told.technique:24} KL divergence {told.kl:.4f}, top-1 agreement {100 * told.top1:.1f} %")


if __name__ == "__main__":
    main()
