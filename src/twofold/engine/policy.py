"""SchedulingPolicy: the seam through which a technique decides what runs next, and the two built-in policies.

The scheduler keeps what must always hold (memory, limits, preemption, no starvation); a policy only expresses
a preference, by four attributes and two pure functions:

- `rank`: where a request stands in the queue, fixed when it arrives, or for `period` steps. Everything else
  follows from it: who is admitted first, and who is preempted last.
- `decodes_first`, `mixes`: which kind is scheduled first, and whether the other kind may share the batch.
- `chunk`: how much of a prompt is computed in this step, given what the batch already holds.
"""

from __future__ import annotations

import math
from typing import Protocol

from twofold.engine.batch import Batch
from twofold.engine.request import Request


class SchedulingPolicy(Protocol):
    """What a scheduling technique provides.

    period: steps after which requests are ranked anew (0: a rank is for ever); decodes_first: running decodes
    are scheduled before prompts; mixes: prompts and decodes may share a batch (otherwise the second kind is
    scheduled only where there was nothing of the first); needs_chunking: it cuts prompts on purpose, and so
    cannot work where chunked prefill is off.
    """

    name: str
    period: int
    decodes_first: bool
    mixes: bool
    needs_chunking: bool

    def rank(self, request: Request) -> float:
        """Where `request` stands in the queue: lower is sooner, equals go first come, first served."""

    def chunk(self, request: Request, remaining: int, batch: Batch, tokens_left: int) -> int:
        """How many of the `remaining` tokens of a prompt to compute in this step (0: none of it, nor of those
        after it). `batch` holds what is scheduled so far; `tokens_left` is what the token budget leaves."""


class Mixed:
    """Decodes first, then prompts, whole or in chunks, with what is left of the token budget (vLLM V1's
    order).

    patience: seconds of waiting that one level of priority is worth. Infinite means strict priorities, under
    which low ones may wait for as long as higher ones keep coming; a finite one bounds the wait of every
    request.
    """

    name = "mixed"
    period = 0
    decodes_first = True
    mixes = True
    needs_chunking = False

    def __init__(self, patience: float = math.inf) -> None:
        if not patience > 0:
            raise ValueError(
                f"patience is {patience!r}; it must be above 0 seconds (infinite: strict priorities)"
            )
        self.patience = patience

    def rank(self, request: Request) -> float:
        """The priority itself, or the arrival time moved by `patience` seconds per level."""
        if self.patience == math.inf:
            return float(request.priority)
        return request.arrival_time + self.patience * request.priority

    def chunk(self, request: Request, remaining: int, batch: Batch, tokens_left: int) -> int:
        """All that fits."""
        return min(remaining, tokens_left)


class PrefillFirst(Mixed):
    """Batches of prompts have precedence over batches of decodes and never mix with them (Orca-style
    baseline, and what vLLM did before chunked prefill): best time to first token, decodes stall while prompts
    come in."""

    name = "prefill-first"
    decodes_first = False
    mixes = False


POLICIES: dict[str, type[Mixed]] = {policy.name: policy for policy in (Mixed, PrefillFirst)}
