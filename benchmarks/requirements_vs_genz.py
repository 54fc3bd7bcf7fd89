"""What `twofold requirements` counts beside what GenZ counts for the same step of the same model; prints a
table.

    python benchmarks/requirements_vs_genz.py --genz-python PATH [--save docs/data/requirements-genz.json]

PATH is the interpreter of an environment with GenZ (arXiv:2406.01698): `pip install genz-llm` (0.0.16 was
compared). `make docs` makes the table in docs/tools.md from what `--save` stores.

Per rank: FLOP of the layers' products and of attention, bytes of their weights and of cache, and collectives;
the vocabulary projection is left out, for GenZ computes it for every token of a prompt. Where definitions
differ, docs/tools.md says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from twofold.analysis.counting import StepCounter
from twofold.models.catalog import get_spec
from twofold.ops.attention import Span
from twofold.plan import Plan

GENZ_NAMES = {
    "llama-2-7b": "llama2_7b",
    "llama-3.1-8b": "llama3_8b",
    "llama-3.1-70b": "meta-llama/llama-3.1-70b",
    "mixtral-8x7b": "mixtral_8x7b",
}
STEPS = (("prefill", 1, 1024), ("prefill", 4, 4096), ("decode", 1, 4096), ("decode", 32, 4096))
QUANTITIES = ("products", "attention", "weights", "cache", "messages")


def cases() -> list[dict[str, Any]]:
    """Every model and step on one device, and the largest on eight."""
    return [
        {"model": model, "phase": phase, "batch": batch, "tokens": tokens, "tp": tp}
        for model in GENZ_NAMES
        for tp in ((1, 8) if model == "llama-3.1-70b" else (1,))
        for phase, batch, tokens in STEPS
        if phase == "decode" or tokens <= get_spec(model).max_context
    ]


def ours(case: dict[str, Any]) -> dict[str, float]:
    """What the engine's ops count. Prompts without their logits, of which GenZ computes one per token."""
    model, batch, tokens = case["model"], case["batch"], case["tokens"]
    plan = Plan.from_dict(
        {
            "model": model,
            "precision": "bf16",
            "parallel": {"tp": case["tp"]},
            "engine": {
                "max_num_seqs": batch,
                "max_context": tokens,
                "cache_blocks": batch * -(-tokens // 16),
            },
            "workload": {"prompt": 1, "output": 1},
        }
    )
    counter = StepCounter(plan, get_spec(model))
    prefill = case["phase"] == "prefill"
    found = counter.step([Span(tokens if prefill else 1, tokens)] * batch, 0)
    return {
        "products": found.flop_of["linear"] + found.flop_of.get("experts", 0.0),
        "attention": found.flop_of["attention"],
        "weights": found.moved["weights"],
        "cache": found.moved["cache"],
        "messages": float(found.messages),
    }


def compare(python: str) -> list[dict[str, Any]]:
    """One record per case: the figures of both."""
    asked = cases()
    renamed = [{**case, "model": GENZ_NAMES[case["model"]]} for case in asked]
    peer = subprocess.run(
        [python, str(Path(__file__).with_name("genz_peer.py"))],
        input=json.dumps(renamed),
        capture_output=True,
        text=True,
        check=False,
    )
    if peer.returncode:
        sys.exit(f"GenZ did not run in {python}:\n{peer.stderr}")
    return [
        {**case, "ours": ours(case), "genz": {name: theirs[name] for name in QUANTITIES}}
        for case, theirs in zip(asked, json.loads(peer.stdout), strict=True)
    ]


def main() -> None:
    """Compare, print, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--genz-python", required=True, help="interpreter of an environment with genz-llm")
    parser.add_argument("--save", type=Path, help="store the figures for `make docs`")
    args = parser.parse_args()
    records = compare(args.genz_python)
    print(f"{'case':44}" + "".join(f"{name:>12}" for name in QUANTITIES) + "   (ours / GenZ)")
    for record in records:
        name = f"{record['model']} tp={record['tp']} {record['phase']} {record['batch']} × {record['tokens']}"
        ratios = [
            f"{record['ours'][q] / record['genz'][q]:12.3f}" if record["genz"][q] else f"{'-':>12}"
            for q in QUANTITIES
        ]
        print(f"{name:44}" + "".join(ratios))
    if args.save:
        args.save.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
