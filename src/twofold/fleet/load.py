"""What an instance reports of itself: all that a fleet's policy decides by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twofold.engine.request import Request
from twofold.engine.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Resident:
    """A request on an instance. blocks: cache blocks that it holds, or needs to begin; tokens: context and
    output; outputs: tokens generated; priority: lower is more important."""

    id: str | int
    blocks: int
    tokens: int
    outputs: int
    priority: int


@dataclass(frozen=True, slots=True)
class Load:
    """The state of an instance between two of its steps.

    num_blocks, free_blocks: of its cache, with block_size tokens each; seats: requests that may still be
    admitted; pending_tokens: what the queue and the next step have to compute (prompts, and one per decode);
    running: requests that hold a cache; decoding: those of them that generate; head: the first in the queue;
    num_waiting: requests in the queue, and waiting_blocks, which
    their contexts need.
    """

    num_blocks: int
    free_blocks: int
    block_size: int
    seats: int
    pending_tokens: int
    running: tuple[Resident, ...]
    decoding: tuple[Resident, ...]
    head: Resident | None
    num_waiting: int
    waiting_blocks: int


def load_of(scheduler: Scheduler, unfiltered: Iterable[Request] = ()) -> Load:
    """The load that `scheduler` has now. unfiltered: requests that wait for a prompt filter."""
    blocks = scheduler.blocks
    decoding = decoding_of(scheduler)
    prefilling = scheduler.prefilling
    waiting = [*unfiltered, *scheduler.waiting]
    pending = sum(r.num_tokens - r.num_computed for r in prefilling) + sum(r.num_tokens for r in waiting)
    head = min(scheduler.waiting, key=lambda r: r.order, default=None)
    return Load(
        blocks.num_blocks,
        blocks.num_free,
        blocks.block_size,
        scheduler.config.max_num_seqs - scheduler.num_running - scheduler.num_expected,
        pending + len(decoding),
        (*decoding, *(_resident(r, len(r.block_table)) for r in prefilling)),
        decoding,
        None if head is None else _resident(head, blocks.blocks_for(head.num_tokens)),
        len(waiting),
        sum(blocks.blocks_for(r.num_tokens) for r in waiting),
    )


def decoding_of(scheduler: Scheduler) -> tuple[Resident, ...]:
    """The requests that generate on `scheduler` now."""
    return tuple(_resident(r, len(r.block_table)) for r in scheduler.decoding)


def _resident(request: Request, blocks: int) -> Resident:
    return Resident(request.id, blocks, request.num_tokens, request.num_output_tokens, request.priority)
