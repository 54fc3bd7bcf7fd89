"""SmolLM2-135M against transformers on the same dequantised weights: greedy text, logits, perplexity."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from tests.models.reference import hf_llama

from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.loading import load_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.workloads.text import prose

pytestmark = pytest.mark.model

QUESTIONS = (
    "What is the capital of France?",
    "Write a haiku about rivers.",
    "Explain what a list is in Python.",
)


@cache
def checkpoint_at(path: Path) -> Checkpoint:
    return load_checkpoint(path)


@cache
def engine_at(path: Path) -> Engine:
    plan = Plan.from_dict({"model": str(path), "engine": {"max_context": 2048, "max_num_seqs": 4}})
    found = checkpoint_at(path)
    return build_engine(plan, TorchDevice("cpu"), found.spec, found)


@cache
def oracle_at(path: Path) -> torch.nn.Module:
    return hf_llama(checkpoint_at(path))


def test_greedy_text_equals_transformers(smollm2: Path) -> None:
    tokenizer = checkpoint_at(smollm2).text_tokenizer()
    prompts = [tokenizer.encode(tokenizer.chat([{"role": "user", "content": q}])) for q in QUESTIONS]
    ours = engine_at(smollm2).generate(prompts, SamplingParams(max_tokens=24, ignore_eos=True))
    for prompt, completion in zip(prompts, ours, strict=True):
        with torch.inference_mode():
            theirs = oracle_at(smollm2).generate(  # type: ignore[operator]
                torch.tensor([prompt]),
                max_new_tokens=24,
                min_new_tokens=24,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
            )
        assert completion.token_ids == theirs[0, len(prompt) :].tolist()


def test_the_model_knows_the_capital_of_france(smollm2: Path) -> None:
    engine = engine_at(smollm2)
    tokenizer = checkpoint_at(smollm2).text_tokenizer()
    text = tokenizer.chat([{"role": "user", "content": QUESTIONS[0]}])
    answer = engine.generate([text], SamplingParams(max_tokens=20))[0]
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"


def perplexities(path: Path, text: str, windows: int, length: int = 512) -> tuple[float, float]:
    """(ours, transformers') over `windows` stretches of `text`, the first token of each given."""
    ids = checkpoint_at(path).text_tokenizer().encode(text, special=False)
    ours = theirs = 0.0
    count = 0
    for i in range(windows):
        piece = ids[i * length : (i + 1) * length]
        target = torch.tensor(piece[1:])[:, None]
        ours -= float(engine_at(path).score(piece).log_softmax(-1).gather(-1, target).double().sum())
        with torch.inference_mode():
            logits = oracle_at(path)(torch.tensor([piece])).logits[0, :-1]
        theirs -= float(logits.log_softmax(-1).gather(-1, target).double().sum())
        count += len(target)
    return math.exp(ours / count), math.exp(theirs / count)


def test_perplexity_equals_transformers_on_prose(smollm2: Path) -> None:
    ours, theirs = perplexities(smollm2, prose()[:40_000], windows=2)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_perplexity_on_wikitext_is_within_one_percent_of_transformers(smollm2: Path, data_dir: Path) -> None:
    text = (data_dir / "wikitext2-test.txt").read_text(encoding="utf-8")
    ours, theirs = perplexities(smollm2, text[:60_000], windows=4)
    print(f"perplexity on WikiText-2: {ours:.3f}, transformers {theirs:.3f}")
    assert ours == pytest.approx(theirs, rel=0.01)
