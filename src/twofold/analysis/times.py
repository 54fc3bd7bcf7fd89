"""Seconds of prompts and of answers from single steps."""

from __future__ import annotations

from twofold.jobs.steps import StepPredictor
from twofold.ops.attention import Span


def prefill_seconds(predictor: StepPredictor, prompt: int, requests: int = 1) -> float:
    """Seconds until `requests` prompts of `prompt` tokens are computed, in chunks of the most tokens that a
    step may have. In a pipeline a chunk starts when the one before has left the first stage."""
    budget = predictor.limits.max_num_batched_tokens
    steps: list[tuple[list[Span], int]] = []
    if prompt > budget:
        ends = [*range(budget, prompt, budget), prompt]
        for begin, end in zip([0, *ends], ends, strict=False):
            steps.append(([Span(end - begin, end)], int(end == prompt)))
        steps = steps * requests
    else:
        most = budget // prompt
        for begin in range(0, requests, most):
            count = min(most, requests - begin)
            steps.append(([Span(prompt, prompt)] * count, count))
    seconds = 0.0
    for spans, logits in steps:
        cost = predictor.step(spans, logits)
        seconds += max(cost.stages) if seconds and cost.stages else cost.seconds
    return seconds


def decode_seconds(predictor: StepPredictor, context: int, batch: int = 1) -> float:
    """Seconds of a step that yields one token for each of `batch` sequences whose caches hold `context`
    tokens."""
    return predictor.step([Span(1, context)] * batch).seconds
