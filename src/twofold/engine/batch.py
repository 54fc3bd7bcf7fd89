"""Batch: what one step computes, as decided by the scheduler, with the sums a cost model needs."""

from __future__ import annotations

from twofold.engine.request import Request
from twofold.ops.compaction import Compaction


class Scheduled:
    """One request's share of a step.

    num_tokens: tokens computed now (a chunk of context, or one plus `num_drafts`); start: position of the
    first of them; slot: cache slot of the first, which is also the number of keys cached before it; samples:
    whether logits of its last tokens are needed (of all 1 + num_drafts of them in a decode).
    """

    __slots__ = ("is_prefill", "num_drafts", "num_tokens", "request", "samples", "slot", "start")

    def __init__(
        self,
        request: Request,
        num_tokens: int,
        start: int,
        slot: int,
        is_prefill: bool,
        samples: bool,
        num_drafts: int,
    ) -> None:
        self.request = request
        self.num_tokens = num_tokens
        self.start = start
        self.slot = slot
        self.is_prefill = is_prefill
        self.samples = samples
        self.num_drafts = num_drafts

    @property
    def num_keys(self) -> int:
        """Keys that its last token sees, its own included."""
        return self.slot + self.num_tokens

    def tokens(self) -> list[int]:
        """Ids of the tokens to compute, drafts included."""
        return self.request.tokens(self.start, self.start + self.num_tokens)

    def __repr__(self) -> str:
        kind = "prefill" if self.is_prefill else "decode"
        return f"Scheduled({self.request.id!r}, {kind}, {self.start}+{self.num_tokens}, slot={self.slot})"


class Batch:
    """One step. Compactions come first, then copies: every (device, host) pair of `swap_out`, then of
    `swap_in`, then the tokens.

    entries: decodes and chunks in the order scheduled; num_tokens: of all entries; total_keys: sum of
    `num_keys`; query_keys: query-key pairs under a causal mask (sum over computed tokens of the keys each
    sees); num_samples: entries that yield tokens; num_running: requests running when it was scheduled;
    preempted: requests that lost their place; finished: requests that the scheduler itself had to end (they
    fit no longer, ever).
    """

    __slots__ = (
        "compactions",
        "entries",
        "finished",
        "num_decode_tokens",
        "num_decodes",
        "num_prefill_tokens",
        "num_prefills",
        "num_running",
        "num_samples",
        "preempted",
        "query_keys",
        "step",
        "swap_in",
        "swap_out",
        "total_keys",
    )

    def __init__(self, step: int, num_running: int) -> None:
        self.step = step
        self.num_running = num_running
        self.entries: list[Scheduled] = []
        self.num_decodes = 0
        self.num_decode_tokens = 0
        self.num_prefills = 0
        self.num_prefill_tokens = 0
        self.num_samples = 0
        self.total_keys = 0
        self.query_keys = 0
        self.compactions: list[Compaction] = []
        self.swap_out: list[tuple[int, int]] = []
        self.swap_in: list[tuple[int, int]] = []
        self.preempted: list[Request] = []
        self.finished: list[Request] = []

    @property
    def num_seqs(self) -> int:
        """Requests in it."""
        return self.num_decodes + self.num_prefills

    @property
    def num_tokens(self) -> int:
        """Tokens computed."""
        return self.num_decode_tokens + self.num_prefill_tokens

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do, not even a copy."""
        return not self.entries and not self.swap_out and not self.swap_in

    def __repr__(self) -> str:
        return (
            f"Batch(step={self.step}, decodes={self.num_decodes} ({self.num_decode_tokens} tokens), "
            f"prefills={self.num_prefills} ({self.num_prefill_tokens} tokens), keys={self.total_keys})"
        )
