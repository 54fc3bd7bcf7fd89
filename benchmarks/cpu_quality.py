"""What the native kernels change of a model's answers: perplexity on WikiText-2 and greedy output against the
reference kernels; prints a table.

    TWOFOLD_DATA=FOLDER python benchmarks/cpu_quality.py [--model smollm2-135m] [--text FILE] [--json]
        [--kernels native native-fp32] [--tokens 20000] [--prompts 20] [--output 64]

FOLDER holds wikitext2-test.txt, WikiText-2's raw test split; `--text` names another text. Perplexity: the
text is cut into windows of 512 tokens; the second half of each is predicted behind the first. Greedy output:
prompts of 48 tokens from equal distances of the text, one at a time. Where two answers part, the logits say
why: `gap` is by how much the reference's token led the native one there, `noise` by how much the two moved
against each other between the kernels. The answers part because the noise exceeds the gap; a small gap is a
tie that rounding decides. Both keep the cache in float32, so that kernels alone differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.jobs.run import load_engine
from twofold.models.find import find_checkpoint
from twofold.plan import Plan

WINDOW, CONTEXT = 512, 256
"""Tokens of a window, and how many of them are only read."""
PROMPT = 48


@dataclass(frozen=True, slots=True)
class Perplexities:
    """Of both kernels on the same tokens, with the mean KL divergence (nat) and the share of tokens that both
    predict alike."""

    tokens: int
    reference: float
    native: float
    ratio: float
    kl_divergence: float
    top1_agreement: float


@dataclass(frozen=True, slots=True)
class Greedy:
    """Both answers to one prompt: tokens compared, tokens alike before the first that differs (None: all
    are), and there the lead of the reference's token over the native one and the move of the two (logits)."""

    prompt: int
    tokens: int
    parted: int | None = None
    gap: float | None = None
    noise: float | None = None


@dataclass(frozen=True, slots=True)
class Answers:
    """What one engine says: log-probabilities of each window, and greedy token ids of each prompt."""

    logprobs: list[torch.Tensor]
    greedy: list[list[int]]


def engine_of(model: str, kernels: str) -> Engine:
    """The model on those kernels, with a cache in float32 on all of them."""
    engine = {"kernels": kernels, "cache_format": "f32", "prefix_caching": False}
    plan = Plan.from_dict({"model": model, "engine": engine, "workload": {"prompt": WINDOW, "output": 64}})
    return load_engine(plan, find_checkpoint(model))


def ask(
    engine: Engine, windows: Sequence[list[int]], prompts: Sequence[list[int]], output: int, name: str
) -> Answers:
    """Score all windows, answer all prompts."""
    logprobs = []
    for number, window in enumerate(windows, 1):
        say(f"{name}: window {number} of {len(windows)}")
        logprobs.append(engine.score(window, CONTEXT).log_softmax(-1))
    params = SamplingParams(max_tokens=output, ignore_eos=True, temperature=0.0)
    greedy = []
    for number, prompt in enumerate(prompts, 1):
        say(f"{name}: prompt {number} of {len(prompts)}")
        greedy.append(list(engine.generate([prompt], params)[0].token_ids))
    return Answers(logprobs, greedy)


def compare_perplexity(windows: Sequence[list[int]], reference: Answers, native: Answers) -> Perplexities:
    """Of all windows together."""
    nll = [0.0, 0.0]
    kl, agreed, tokens = 0.0, 0, 0
    for window, theirs, ours in zip(windows, reference.logprobs, native.logprobs, strict=True):
        targets = torch.tensor(window[CONTEXT:])[:, None]
        for i, logprobs in enumerate((theirs, ours)):
            nll[i] -= float(logprobs.gather(-1, targets).double().sum())
        kl += float((theirs.exp() * (theirs - ours)).sum(-1).double().sum())
        agreed += int((theirs.argmax(-1) == ours.argmax(-1)).sum())
        tokens += len(targets)
    a, b = (math.exp(x / tokens) for x in nll)
    return Perplexities(tokens, a, b, b / a, kl / tokens, agreed / tokens)


def compare_greedy(
    prompts: Sequence[list[int]], reference: Answers, native: Answers, engines: tuple[Engine, Engine]
) -> list[Greedy]:
    """Each prompt's two answers; `engines`: reference and native, asked again where the answers part."""
    rows = []
    for number, (prompt, a, b) in enumerate(zip(prompts, reference.greedy, native.greedy, strict=True)):
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=True)))
        if alike == len(a):
            rows.append(Greedy(number, len(a)))
            continue
        ids = [*prompt, *a[: alike + 1]]
        theirs, ours = (engine.score(ids, len(ids) - 1)[0] for engine in engines)
        gap = float(theirs[a[alike]] - theirs[b[alike]])
        moved = gap - float(ours[a[alike]] - ours[b[alike]])
        rows.append(Greedy(number, len(a), alike, gap, moved))
    return rows


def say(text: str) -> None:
    """Progress, beside the result."""
    print(text, file=sys.stderr, flush=True)


def print_result(kernels: str, perplexity: Perplexities, greedy: Sequence[Greedy]) -> None:
    """One pair of kernels for people."""
    print(
        f"{kernels} against reference kernels: perplexity {perplexity.native:.4f} against "
        f"{perplexity.reference:.4f} on {perplexity.tokens:,} tokens, ratio {perplexity.ratio:.5f}; "
        f"KL divergence {perplexity.kl_divergence:.2e} nat, same choice {perplexity.top1_agreement:.2%}"
    )
    whole = sum(row.parted is None for row in greedy)
    print(f"greedy output of {len(greedy)} prompts: {whole} alike to the last token")
    for row in greedy:
        if row.parted is not None:
            print(
                f"  prompt {row.prompt:2}: parts after {row.parted:3} of {row.tokens} tokens, "
                f"gap {row.gap:.4f}, noise {row.noise:.4f}"
            )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--kernels", nargs="+", default=["native"], choices=("native", "native-fp32"))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=20_000, help="tokens that are predicted, about")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = os.environ.get("TWOFOLD_DATA")
    if args.text is None and folder is None:
        parser.error("set TWOFOLD_DATA to the folder of wikitext2-test.txt, or name a text with --text")
    path = args.text or Path(str(folder)) / "wikitext2-test.txt"
    reference = engine_of(args.model, "reference")
    assert reference.tokenizer is not None
    ids = reference.tokenizer.encode(path.read_text(encoding="utf-8"), special=False)
    count = max(1, min(args.tokens // (WINDOW - CONTEXT), len(ids) // WINDOW))
    windows = [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(count)]
    stride = (len(ids) - PROMPT) // max(1, args.prompts)
    prompts = [ids[i * stride : i * stride + PROMPT] for i in range(args.prompts)]
    truth = ask(reference, windows, prompts, args.output, "reference")
    found: list[dict[str, Any]] = []
    for kernels in args.kernels:
        engine = engine_of(args.model, kernels)
        answers = ask(engine, windows, prompts, args.output, kernels)
        perplexity = compare_perplexity(windows, truth, answers)
        greedy = compare_greedy(prompts, truth, answers, (reference, engine))
        found.append(
            {"kernels": kernels, "perplexity": asdict(perplexity), "greedy": [asdict(row) for row in greedy]}
        )
        if not args.json:
            print_result(kernels, perplexity, greedy)
    if args.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
