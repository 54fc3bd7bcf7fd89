"""Twofold's `cpu` device against transformers on the same dequantised weights, interleaved A B A B; prints a
table.

    python benchmarks/cpu_vs_transformers.py [--rounds 7] [--prompt 512] [--output 64] [--json]

Both use fp32 weights and the same torch threads. Prefill is one prompt to its first token; decode is greedy,
one sequence, with each one's own cache. Medians of `rounds`, after one round that is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.loading import load_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def transformers_model(checkpoint: Checkpoint) -> torch.nn.Module:
    """transformers' Llama with the checkpoint's weights in fp32."""
    from tests.models.reference import hf_llama

    return hf_llama(checkpoint)


def time_ours(engine: Engine, ids: list[int], output: int) -> tuple[float, float]:
    """(seconds to the first token, seconds per further token)."""
    engine.scheduler.blocks.forget_cached()
    request = engine.add(ids, SamplingParams(max_tokens=output, ignore_eos=True))
    while not request.is_finished:
        engine.step()
    assert request.first_token_time is not None
    assert request.last_token_time is not None
    first = request.first_token_time - request.arrival_time
    return first, (request.last_token_time - request.first_token_time) / (output - 1)


@torch.inference_mode()
def time_theirs(model: torch.nn.Module, ids: list[int], output: int) -> tuple[float, float]:
    """The same two figures with the model's own cache and a bare greedy loop (no `generate` overhead)."""
    start = time.perf_counter()
    out = model(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    first = time.perf_counter() - start
    for _ in range(output - 1):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
    return first, (time.perf_counter() - start - first) / (output - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.model)
    plan = Plan.from_dict({"model": args.model, "workload": {"prompt": args.prompt, "output": args.output}})
    engine = build_engine(plan, TorchDevice("cpu"), checkpoint.spec, checkpoint)
    model = transformers_model(checkpoint)
    ids = [(31 * i) % 40_000 + 100 for i in range(args.prompt)]
    ours, theirs = [], []
    for round_number in range(args.rounds + 1):
        a, b = time_ours(engine, ids, args.output), time_theirs(model, ids, args.output)
        if round_number:
            ours.append(a)
            theirs.append(b)
    rows = []
    for case, i, count in ((f"pp{args.prompt}", 0, args.prompt), (f"tg{args.output}", 1, 1)):
        mine, other = ([count / r[i] for r in runs] for runs in (ours, theirs))
        ratio = statistics.median(m / o for m, o in zip(mine, other, strict=True))
        rows.append(
            {
                "case": case,
                "ours": statistics.median(mine),
                "theirs": statistics.median(other),
                "ratio": ratio,
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return
    print(
        f"{args.model}, fp32 weights, {torch.get_num_threads()} threads, medians of {args.rounds} "
        "interleaved rounds"
    )
    print(f"{'case':8} {'twofold tok/s':>14} {'transformers tok/s':>19} {'ratio':>7}")
    for row in rows:
        print(f"{row['case']:8} {row['ours']:14.1f} {row['theirs']:19.1f} {row['ratio']:6.2f}x")


if __name__ == "__main__":
    main()
