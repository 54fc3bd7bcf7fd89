"""Choosing from logits with torch: what the sampler needs of a whole vocabulary."""

from __future__ import annotations

import torch


def argmax(logits: torch.Tensor) -> list[int]:
    """The first index of the largest of each row of logits [R, V]. NaN counts as the largest."""
    found: list[int] = logits.argmax(-1).tolist()
    return found


def best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and ids of all scores [V] that are not below the k-th largest: k of them, or more where others
    equal the last. Largest first, lower ids first among equals; -inf is never among them."""
    lowest = scores.topk(min(k, len(scores))).values[-1]
    ids = ((scores >= lowest) & (scores > float("-inf"))).nonzero()[:, 0]
    values, order = scores[ids].sort(descending=True, stable=True)
    return values, ids[order]


def exponentials(seed: int, vocab: int, ids: torch.Tensor) -> torch.Tensor:
    """Elements `ids` [n] of torch.empty(vocab).exponential_() with torch's CPU generator seeded so: [n]."""
    noise = torch.empty(vocab).exponential_(generator=torch.Generator().manual_seed(seed))
    return noise[ids]
