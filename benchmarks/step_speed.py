"""How many steps a second are predicted; one process, one core.

    python benchmarks/step_speed.py [--seconds S] [--machines | --techniques] [--json]

A step is a batch of 1 to 64 decoding sequences, half of the time with a chunk of a prompt. Warm: batches of
so many tokens were predicted before, with other contexts. Cold: nearly every step has a number of tokens
that was not seen before. Replay: decoding steps as the engine predicts them while nothing is to be decided.
With --machines: the small GPT-2 on every machine that maps ops in its own way. With --techniques: those that
change attention layer by layer or sequence by sequence, on a GPU and on their own machines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import MACHINES
from twofold.jobs.steps import StepPredictor
from twofold.ops.attention import Span
from twofold.ops.decodes import Contexts, DecodeSpans
from twofold.plan import Plan

CASES: list[dict[str, Any]] = [
    {"model": "llama-3.1-70b", "device": "h100-sxm", "parallel": {"tp": 8}},
    {"model": "llama-3.1-70b", "device": "h100-sxm", "parallel": {"tp": 2, "pp": 4}},
    {"model": "llama-3.1-8b", "device": "a100-80g-sxm", "techniques": ["kivi"]},
    {"model": "llama-3.1-8b", "device": "rtx-4090", "techniques": ["int-vs-fp"]},
    {"model": "gemma-3-27b", "device": "h200-sxm"},
    {"model": "mixtral-8x7b", "device": "h100-sxm", "parallel": {"tp": 4}},
    {"model": "deepseek-v3", "device": "b200", "parallel": {"tp": 16, "ep": 16}},
    {"model": "gpt2-1.5b", "device": "pim-gpt"},
]
ON_MACHINES: list[dict[str, Any]] = [{"model": "gpt2-small", "device": name} for name in MACHINES]
WITH_TECHNIQUES: list[dict[str, Any]] = [
    {"model": "llama-3.1-8b", "device": "h100-sxm", "techniques": [name]}
    for name in ("spatten", "minference", "zipvl", "alisa", "h2o", "sparf", "retrievalattention")
] + [
    {"model": "llama-2-7b", "device": "waferllm", "techniques": ["minference"], "precision": "fp16"},
    {"model": "gpt2-medium", "device": "spatten", "techniques": ["spatten"]},
    {"model": "llama-2-7b", "device": "instinfer", "techniques": ["sparf"]},
    {"model": "gpt2-medium", "device": "had", "techniques": ["had"]},
]


def batches(seed: int, chunks: Iterable[int]) -> Iterable[list[Span]]:
    """Batches with prompt chunks of those sizes (0: decodes only)."""
    random = Random(seed)
    for chunk in chunks:
        spans = [Span(1, random.randrange(100, 900)) for _ in range(random.choice((1, 4, 16, 64)))]
        yield [*spans, Span(chunk, chunk)] if chunk else spans


def rate(step: Callable[[Any], object], steps: Iterable[Any], seconds: float) -> float:
    """Steps per second of CPU time, over `seconds` or until there are no more."""
    start = time.process_time()
    count = 0
    for spans in steps:
        step(spans)
        count += 1
        if time.process_time() - start > seconds:
            break
    return count / (time.process_time() - start)


def measure(values: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The rates of one plan, one row of the table."""
    plan = Plan.from_dict(values)
    predictor = StepPredictor(plan, plan.device)
    device = predictor.device
    assert isinstance(device, ModelledDevice)
    cold = rate(predictor.step, list(batches(1, range(100, 2000))), seconds)
    known = list(batches(2, itertools.islice(itertools.cycle((0, 256, 0, 512, 0, 100, 0, 384)), 4000)))
    for spans in known:
        predictor.step(spans)
    warm = rate(predictor.step, batches_of(known), seconds)
    contexts = Contexts([keys for _, keys in known[0]])
    replay = rate(predictor.step, (DecodeSpans(contexts, i) for i in itertools.count()), seconds)
    cut = "".join(f" {name}={n}" for name, n in plan.parallel.model_dump().items() if n > 1)
    names = " ".join(use.name for use in plan.techniques)
    return {
        "case": f"{plan.model} on {plan.device}{cut} {names}".strip(),
        "warm": warm,
        "cold": cold,
        "replay": replay,
    }


def batches_of(known: list[list[Span]]) -> Iterable[list[Span]]:
    """The same shapes again, with ever longer contexts."""
    for later in itertools.count(1):
        for spans in known:
            yield [Span(q, k + later) if q == 1 else Span(q, k) for q, k in spans]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU time of each measurement")
    parser.add_argument("--machines", action="store_true", help="every machine instead")
    parser.add_argument("--techniques", action="store_true", help="plans with techniques instead")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    cases = ON_MACHINES if args.machines else WITH_TECHNIQUES if args.techniques else CASES
    if args.json:
        print(json.dumps([measure(case, args.seconds) for case in cases], indent=2))
        return
    print(f"{'steps per second of one core':52} {'warm':>8} {'cold':>8} {'replay':>8}")
    for row in (measure(case, args.seconds) for case in cases):
        print(f"{row['case']:52} {row['warm']:8,.0f} {row['cold']:8,.0f} {row['replay']:8,.0f}", flush=True)


if __name__ == "__main__":
    main()
