"""From a batch to a step: its tensors on a real device, or its shape alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from twofold.engine.batch import Batch
from twofold.models.step import StepInput
from twofold.ops.attention import Span
from twofold.ops.compaction import Observed


def slots_of(table: Sequence[int], start: int, end: int, block_size: int) -> list[int]:
    """Flat cache slots start … end - 1 of a block table."""
    return [table[i // block_size] * block_size + i % block_size for i in range(start, end)]


def shape_of(batch: Batch, observed: list[Observed | None]) -> StepInput:
    """The step of `batch` without tensors. observed: see `StepInput`."""
    spans = [Span(e.num_tokens, e.num_keys) for e in batch.entries]
    logits = sum([1 + e.num_drafts for e in batch.entries if e.samples])
    return StepInput(spans, batch.num_tokens, logits, observed=observed)


def step_of(
    batch: Batch,
    rows: list[int],
    block_size: int,
    where: torch.device,
    observed: list[Observed | None],
) -> StepInput:
    """The step of `batch` with its tensors on `where`. rows: of its entries, in the per-sequence stores;
    observed: see `StepInput`."""
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    slots: list[int] = []
    wanted: list[int] = []
    pooled: list[int] = []
    for e in batch.entries:
        first = len(ids)
        ids += e.tokens()
        positions += range(e.start, e.start + e.num_tokens)
        spans.append(Span(e.num_tokens, e.num_keys))
        slots += slots_of(e.request.block_table, e.slot, e.num_keys, block_size)
        if e.samples:
            last = first + e.num_tokens
            wanted += range(last - 1 - e.num_drafts, last)
        elif e.request.pool:
            pooled += range(first, first + e.num_tokens)
    return StepInput(
        spans,
        len(ids),
        len(wanted),
        torch.tensor(ids, device=where),
        torch.tensor(positions, device=where),
        torch.tensor(slots, device=where),
        None,
        rows,
        torch.tensor(wanted, device=where),
        [e.num_drafts for e in batch.entries],
        [e.request.block_table for e in batch.entries],
        block_size,
        torch.tensor(pooled, device=where) if pooled else None,
        observed,
    )
