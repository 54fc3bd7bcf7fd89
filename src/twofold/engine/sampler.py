"""Choice of the next token from logits. Every draw depends on the request's seed and the token's place alone,
so that a request yields the same tokens whatever it was batched with, preempted for or resumed from.

What has to look at a whole vocabulary comes from one of two modules with the same functions: `sampling` of
the native kernels, or `sampling_torch`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from twofold.engine import sampling_torch
from twofold.engine.request import Request, SamplingParams
from twofold.kernels.cpu import sampling as sampling_native
from twofold.kernels.registry import cpu, reference
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


class Vocabulary(Protocol):
    """The functions over whole vocabularies; `kernels.cpu.sampling` says what each returns."""

    def argmax(self, logits: torch.Tensor) -> list[int]:
        """The best token of each row."""

    def best(self, scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best and what equals the last of them."""

    def exponentials(self, seed: int, vocab: int, ids: torch.Tensor) -> torch.Tensor:
        """The noise of some tokens."""


Sampled = tuple[list[int], list[TokenLogprobs | None]]


@reference(Sample)
def sample(op: Sample, logits: torch.Tensor, rows: list[SampledRow]) -> Sampled:
    """Tokens and, where asked for, log-probabilities of logits [R, V] (float32)."""
    assert logits.shape == (op.rows, op.vocab), (logits.shape, op)
    return choose(logits, rows, sampling_torch)


@cpu(Sample)
def sample_native(_: object, op: Sample, logits: torch.Tensor, rows: list[SampledRow]) -> Sampled | Any:
    """The same with native scans."""
    assert logits.shape == (op.rows, op.vocab), (logits.shape, op)
    if logits.dtype != torch.float32 or not logits.is_contiguous():
        return NotImplemented
    return choose(logits, rows, sampling_native)


def choose(logits: torch.Tensor, rows: list[SampledRow], vocabulary: Vocabulary) -> Sampled:
    """A token for each row of logits [R, V]."""
    tokens = vocabulary.argmax(logits)
    logprobs: list[TokenLogprobs | None] = [None] * len(rows)
    for i, row in enumerate(rows):
        params = row.request.params
        adjusted = params.adjusted
        if params.greedy and not adjusted and params.logprobs is None:
            continue
        scores = adjust(logits[i], row) if adjusted else logits[i]
        tokens[i] = vocabulary.argmax(scores[None])[0] if params.greedy else draw(scores, row, vocabulary)
        if params.logprobs is not None:
            logprobs[i] = _logprobs(logits[i], tokens[i], params.logprobs)
    return tokens, logprobs


def adjust(logits: torch.Tensor, row: SampledRow) -> torch.Tensor:
    """A copy of logits [V] after penalties and bias, -inf where the grammar allows no token."""
    request, params = row.request, row.request.params
    scores = logits.clone()
    if params.penalized:
        _penalise(scores, row)
    if params.logit_bias:
        ids, bias = zip(*params.logit_bias, strict=True)
        scores[list(ids)] += torch.tensor(bias, dtype=scores.dtype, device=scores.device)
    if request.matcher is not None:
        allowed = request.matcher.allowed(request.output_ids, request.draft_ids[: row.offset])
        if allowed is not None:
            forbidden = torch.frombuffer(allowed, dtype=torch.uint8) == 0
            scores.masked_fill_(forbidden.to(scores.device), float("-inf"))
    return scores


def _penalise(logits: torch.Tensor, row: SampledRow) -> None:
    """Apply repetition, presence and frequency penalties to logits [V], in place."""
    request, params = row.request, row.request.params
    output = request.output_ids + request.draft_ids[: row.offset]
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


NUCLEUS = 1024
"""Tokens among which the nucleus (top-p) is looked for before all are sorted."""


def truncate(
    logits: torch.Tensor, params: SamplingParams, vocabulary: Vocabulary
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probabilities [n] after temperature, top-k, top-p and min-p, in that order, and the ids [n] of the
    tokens that are left; None where these are all, in order."""
    scaled = logits / params.temperature
    ids: torch.Tensor | None = None
    if 0 < params.top_k < len(logits):
        values, ids = vocabulary.best(scaled, params.top_k)
        probs = values.softmax(-1)
    else:
        probs = scaled.softmax(-1)
    if params.top_p < 1.0:
        if ids is None:
            probs, ids = _nucleus(probs, params.top_p, vocabulary)
        probs, ids = _keep(_mass_before(probs) < params.top_p, probs, ids)
    if params.min_p > 0.0:
        probs, ids = _keep(probs >= params.min_p * probs.max(), probs, ids)
    return probs / probs.sum(), ids


def _keep(
    chosen: torch.Tensor, probs: torch.Tensor, ids: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    return probs[chosen], chosen.nonzero()[:, 0] if ids is None else ids[chosen]


def _mass_before(ordered: torch.Tensor) -> torch.Tensor:
    """Probability mass ahead of each of them."""
    return ordered.cumsum(-1) - ordered


def _nucleus(probs: torch.Tensor, top_p: float, vocabulary: Vocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of probs [V] in falling order, and their ids: at least those that make up `top_p`."""
    if len(probs) > NUCLEUS:
        values, ids = vocabulary.best(probs, NUCLEUS)
        if len(ids) and float(_mass_before(values)[-1]) >= top_p:
            return values, ids
    return probs.sort(descending=True, stable=True)


def draw(logits: torch.Tensor, row: SampledRow, vocabulary: Vocabulary) -> int:
    """A token drawn from the truncated distribution, determined by seed, request and position.

    Each token of the vocabulary has an exponential variable; the token with the largest ratio of probability
    to that is drawn. So only the variables of tokens that are left matter.
    """
    request = row.request
    place = request.num_output_tokens + row.offset
    seed = request.params.seed
    key = f"{seed if seed is not None else request.id}:{place}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little")
    probs, ids = truncate(logits, request.params, vocabulary)
    probs = probs.cpu()
    if not math.isfinite(float(probs.sum())) or not len(probs):
        raise RuntimeError("no token can be drawn: the logits are not finite numbers")
    ids = torch.arange(len(probs)) if ids is None else ids.cpu()
    noise = vocabulary.exponentials(number, len(logits), ids)
    return int(ids[(probs / noise).argmax()])


def _logprobs(logits: torch.Tensor, token: int, top: int) -> TokenLogprobs:
    values = logits.log_softmax(-1)
    best = values.topk(top) if top else None
    found = {} if best is None else dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprobs(float(values[token]), found)
