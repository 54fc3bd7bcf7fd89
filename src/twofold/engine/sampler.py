"""Choice of the next token from logits. Every draw depends on the request's seed and the token's place alone,
so that a request yields the same tokens whatever it was batched with, preempted for or resumed from."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import torch

from twofold.engine.request import Request, SamplingParams
from twofold.kernels.registry import reference
from twofold.ops.elementwise import Sample


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of the chosen token, and of the most likely ones by token id."""

    chosen: float
    top: dict[int, float]


@dataclass(slots=True)
class SampledRow:
    """One row of logits to choose from: whose it is, and how many of its drafts precede it."""

    request: Request
    offset: int


@reference(Sample)
def sample(
    op: Sample, logits: torch.Tensor, rows: list[SampledRow]
) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Tokens and, where asked for, log-probabilities of logits [R, V] (float32)."""
    assert logits.shape == (op.rows, op.vocab), (logits.shape, op)
    tokens: list[int] = logits.argmax(-1).tolist()
    logprobs: list[TokenLogprobs | None] = [None] * len(rows)
    for i, row in enumerate(rows):
        params = row.request.params
        if params.greedy and not params.penalized and params.logprobs is None:
            continue
        scores = logits[i]
        if params.penalized:
            scores = penalise(scores, row)
        tokens[i] = int(scores.argmax()) if params.greedy else draw(scores, row)
        if params.logprobs is not None:
            logprobs[i] = _logprobs(scores, tokens[i], params.logprobs)
    return tokens, logprobs


def penalise(logits: torch.Tensor, row: SampledRow) -> torch.Tensor:
    """Logits [V] after repetition, presence and frequency penalties."""
    request, params = row.request, row.request.params
    output = request.output_ids + request.draft_ids[: row.offset]
    logits = logits.clone()
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(
            sorted({*(request.context_ids or ()), *output}), dtype=torch.long, device=logits.device
        )
        picked = logits[seen]
        factor = params.repetition_penalty
        logits[seen] = torch.where(picked > 0, picked / factor, picked * factor)
    if output and (params.presence_penalty or params.frequency_penalty):
        counts = Counter(output)
        ids = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * times
    return logits


def truncate(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Probabilities [V] after temperature, top-k, top-p and min-p, in that order."""
    logits = logits / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[-1], float("-inf"))
    probs = logits.softmax(-1)
    if params.top_p < 1.0:
        ordered, index = probs.sort(descending=True)
        before = ordered.cumsum(-1) - ordered  # probability mass ahead of each token
        probs = probs.index_fill(0, index[before >= params.top_p], 0.0)
    if params.min_p > 0.0:
        probs = probs.masked_fill(probs < params.min_p * probs.max(), 0.0)
    return probs / probs.sum()


def draw(logits: torch.Tensor, row: SampledRow) -> int:
    """A token drawn from the truncated distribution, determined by seed, request and position."""
    request = row.request
    place = request.num_output_tokens + row.offset
    seed = request.params.seed
    key = f"{seed if seed is not None else request.id}:{place}".encode()
    generator = torch.Generator().manual_seed(
        int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")
    )
    probs = truncate(logits, request.params).cpu()
    return int(torch.multinomial(probs, 1, generator=generator))


def _logprobs(logits: torch.Tensor, token: int, top: int) -> TokenLogprobs:
    values = logits.log_softmax(-1)
    best = values.topk(top) if top else None
    found = {} if best is None else dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprobs(float(values[token]), found)
