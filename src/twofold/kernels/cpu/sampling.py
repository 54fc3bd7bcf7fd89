"""Choosing from logits natively: what the sampler needs of a whole vocabulary, in a few passes over it."""

from __future__ import annotations

from functools import cache

import torch

from twofold.kernels.cpu import extension


def argmax(logits: torch.Tensor) -> list[int]:
    """The first index of the largest of each row of logits [R, V] (float32, contiguous). NaN is never chosen;
    a row with nothing above -inf gives 0."""
    rows, vocab = logits.shape
    found: list[int] = extension().argmax(logits.data_ptr(), rows, vocab)
    return found


def best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and ids of all scores [V] (float32, contiguous) that are not below the k-th largest: k of them,
    or more where others equal the last. Largest first, lower ids first among equals; NaN and -inf are never
    among them."""
    native, vocab = extension(), scores.shape[0]
    while True:
        k = min(k, vocab)
        values, ids = torch.empty(k), torch.empty(k, dtype=torch.int64)
        count, ties = native.topk(scores.data_ptr(), vocab, k, values.data_ptr(), ids.data_ptr())
        if not ties:
            return values[:count], ids[:count]
        k += ties


def exponentials(seed: int, vocab: int, ids: torch.Tensor) -> torch.Tensor:
    """Elements `ids` [n] of torch.empty(vocab).exponential_() with torch's CPU generator seeded so: [n]."""
    if not _same_as_torch():
        return _whole(seed, vocab)[ids]
    return _chosen(seed, ids)


def _whole(seed: int, vocab: int) -> torch.Tensor:
    return torch.empty(vocab).exponential_(generator=torch.Generator().manual_seed(seed))


def _chosen(seed: int, ids: torch.Tensor) -> torch.Tensor:
    ids, out = ids.contiguous(), torch.empty(len(ids))
    # The generator keeps the lower half of a seed.
    extension().exponentials(seed & 0xFFFFFFFF, ids.data_ptr(), len(ids), out.data_ptr())
    return out


@cache
def _same_as_torch() -> bool:
    """Whether this build of torch draws as the native code does; how it does so is not part of its
    interface."""
    seed, count = (1 << 50) + 20_011, 2000
    return torch.equal(_whole(seed, count), _chosen(seed, torch.arange(count)))
