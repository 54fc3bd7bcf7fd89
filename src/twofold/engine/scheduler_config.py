"""SchedulerConfig: the limits of a step and what happens when memory is short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from twofold.errors import nearest

Preemption = Literal["recompute", "swap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Limits of a step.

    max_num_seqs: requests running at once; max_num_batched_tokens: tokens computed in a step; max_context:
    longest context plus output in tokens (None = as much as the cache holds); chunked_prefill: prompts may be
    cut (where not, only the recomputation of one that outgrew the token budget is); preemption: what happens
    to the cache of a request that has to make room; watermark: share of blocks that admission leaves free for
    running requests to grow into; pipeline_depth: batches kept in flight, over which running requests are
    spread evenly; lookahead: tokens ahead of need for which decoding requests get their blocks, where some
    are to spare.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_context: int | None = None
    chunked_prefill: bool = True
    preemption: Preemption = "recompute"
    watermark: float = 0.01
    pipeline_depth: int = 1
    lookahead: int = 0

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "pipeline_depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, below max_num_seqs "
                f"({self.max_num_seqs}); a running request needs a token in a step: raise the one or lower "
                f"the other"
            )
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(
                f"max_context is {self.max_context}; it must be at least 2 (a prompt and an output token)"
            )
        if self.preemption not in get_args(Preemption):
            raise ValueError(
                f"unknown preemption {self.preemption!r}; {nearest(self.preemption, get_args(Preemption))}"
            )
        if not 0 <= self.watermark < 1:
            raise ValueError(f"watermark is {self.watermark}; it must be at least 0 and below 1")
