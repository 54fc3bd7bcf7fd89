"""Request: one sequence being generated.

A request separates four lengths that are often mixed up:

- `num_prompt_tokens`: what the user sent;
- `num_context_tokens`: the part of it that the model sees (a technique may have replaced the prompt by fewer
  tokens);
- `num_tokens`: context plus output, that is everything the next token depends on;
- `num_computed`: how many of those have their keys and values computed, and `num_slots`: how many cache slots
  these occupy (fewer, where a cache technique evicted some).

Ids may be unknown (`prompt_ids=None`): a prediction needs lengths only. Nothing here reads a clock or imports
torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Literal

from twofold.engine.sampling_params import SamplingParams as SamplingParams

if TYPE_CHECKING:
    from twofold.engine.grammar import Matcher

FinishReason = Literal["stop", "length", "capacity", "cancelled", "aborted", "error"]

# A boundary no request reaches: nothing (more) of this request can enter the prefix cache.
NEVER = 1 << 62


class RequestStatus(Enum):
    """Where a request is. SWAPPED waits too, with its cache in host memory."""

    WAITING = "waiting"
    RUNNING = "running"
    SWAPPED = "swapped"
    FINISHED = "finished"


class Request:
    """One sequence. The scheduler and the block manager own its state; others read it.

    prompt: token ids, or their number where only lengths are known. priority: lower runs sooner.
    arrival_time: seconds on the engine's clock. eos_ids: the model's end tokens. salt: requests share cached
    prefixes only under equal salts. share_prefix: whether its blocks may be shared at all (a technique that
    evicts or rewrites slots in place says no). record_times: keep the time of every output token in
    `token_times`. matcher: of the grammar that its output follows. pool: nothing is generated; it ends once
    the hidden states of its prompt are computed.
    """

    __slots__ = (
        "_boundary",
        "_pending_context",
        "_pending_finish",
        "arrival_time",
        "block_table",
        "chain",
        "context_ids",
        "draft_ids",
        "finish_reason",
        "finished_time",
        "first_scheduled_time",
        "first_token_time",
        "host_copy",
        "host_table",
        "id",
        "in_flight",
        "last_step",
        "last_token_time",
        "matcher",
        "max_tokens",
        "min_tokens",
        "num_accepted",
        "num_cached_tokens",
        "num_computed",
        "num_context_tokens",
        "num_drafted",
        "num_drafts",
        "num_output_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "num_slots",
        "num_tokens",
        "order",
        "output_ids",
        "params",
        "pool",
        "priority",
        "prompt_ids",
        "salt",
        "share_prefix",
        "status",
        "stop_ids",
        "stop_token",
        "token_times",
    )

    def __init__(
        self,
        id: str | int,
        prompt: Sequence[int] | int,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        arrival_time: float = 0.0,
        eos_ids: frozenset[int] = frozenset(),
        salt: Hashable = None,
        share_prefix: bool = True,
        record_times: bool = False,
        matcher: Matcher | None = None,
        pool: bool = False,
    ) -> None:
        params = params if params is not None else SamplingParams()
        self.id = id
        self.params = params
        self.priority = priority
        self.arrival_time = arrival_time
        self.salt = salt
        self.share_prefix = share_prefix
        self.matcher = matcher
        self.pool = pool
        # Copies of parameters that are read once per token.
        self.max_tokens = params.max_tokens
        self.min_tokens = params.min_tokens
        self.stop_ids = params.stop_token_ids if params.ignore_eos else params.stop_token_ids | eos_ids

        self.prompt_ids: Sequence[int] | None = None if isinstance(prompt, int) else prompt
        self.num_prompt_tokens = prompt if isinstance(prompt, int) else len(prompt)
        if self.num_prompt_tokens < 1:
            raise ValueError(f"request {id!r} has an empty prompt; at least one token is needed")
        self.context_ids = self.prompt_ids
        self.num_context_tokens = self.num_prompt_tokens
        self.output_ids: list[int] = []
        self.num_output_tokens = 0
        self.num_tokens = self.num_context_tokens
        self.draft_ids: list[int] = []
        self.num_drafts = 0

        self.num_computed = 0
        self.num_slots = 0
        self.block_table: list[int] = []
        self.host_table: list[int] = []
        self.host_copy: list[int] = []
        self.chain: list[int] = []
        self._boundary = 0

        self.status = RequestStatus.WAITING
        self.in_flight = False
        self.order: tuple[float, int] = (0.0, 0)
        self.last_step = -1
        self._pending_finish: FinishReason | None = None
        self._pending_context: Sequence[int] | int | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_token: int | None = None

        self.first_scheduled_time: float | None = None
        self.first_token_time: float | None = None
        self.last_token_time: float | None = None
        self.finished_time: float | None = None
        self.token_times: list[float] | None = [] if record_times else None

        self.num_preemptions = 0
        self.num_cached_tokens = 0
        self.num_drafted = 0
        self.num_accepted = 0

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self.status is RequestStatus.FINISHED

    @property
    def is_prefilling(self) -> bool:
        """Whether more than the newest token is still to be computed, or nothing has been generated yet."""
        return self.num_computed < self.num_tokens - 1 or self.num_output_tokens == 0

    @property
    def context_replaced(self) -> bool:
        """Whether the model sees something else than the prompt."""
        return self.context_ids is not self.prompt_ids or self.num_context_tokens != self.num_prompt_tokens

    @property
    def num_known_tokens(self) -> int:
        """Leading tokens whose ids are known (all, none, or the context only, where outputs are merely
        counted)."""
        return 0 if self.context_ids is None else self.num_context_tokens + len(self.output_ids)

    def tokens(self, start: int, stop: int) -> list[int]:
        """Ids at positions `start` to `stop` (excluded) of context, output and, after these, drafts."""
        assert self.context_ids is not None, f"request {self.id!r} has lengths only"
        assert 0 <= start <= stop <= self.num_tokens + self.num_drafts, (
            start,
            stop,
            self.num_tokens,
            self.num_drafts,
        )
        split = self.num_context_tokens
        ids = list(self.context_ids[start : min(stop, split)]) if start < split else []
        if stop > split:
            ids += self.output_ids[max(start - split, 0) : stop - split]
        if stop > self.num_tokens:
            ids += self.draft_ids[max(start - self.num_tokens, 0) : stop - self.num_tokens]
        return ids

    def set_drafts(self, drafts: Sequence[int] | int) -> None:
        """Guesses of the next tokens (ids, or their number in a prediction), verified by its next decode. The
        scheduler may use fewer. Call between `update` and `schedule`, on a request that is decoding; a
        preemption forgets them."""
        assert not self.in_flight, f"request {self.id!r} is in flight"
        if isinstance(drafts, int):
            self.num_drafts = drafts
        else:
            self.draft_ids = list(drafts)
            self.num_drafts = len(self.draft_ids)

    def replace_context(self, context: Sequence[int] | int) -> None:
        """Let the model see `context` (ids, or their number) instead of the prompt. Only before anything is
        computed or generated; `Scheduler.replace_context` does it later as well."""
        in_use = self.block_table or self.num_computed or self.num_output_tokens
        assert not in_use, f"{self!r} has begun"
        self.context_ids = None if isinstance(context, int) else context
        self.num_context_tokens = context if isinstance(context, int) else len(context)
        if self.num_context_tokens < 1:
            raise ValueError(f"request {self.id!r}: the replaced context is empty; keep at least one token")
        self.num_tokens = self.num_context_tokens

    def forget_computed(self) -> None:
        """Back to nothing computed; the block manager has taken the blocks."""
        in_use = self.block_table or self.host_table
        assert not in_use, f"{self!r} still holds blocks"
        self.num_computed = self.num_slots = 0
        self.forget_drafts()

    def forget_drafts(self) -> None:
        """Drop guesses."""
        if self.num_drafts:
            self.draft_ids = []
            self.num_drafts = 0

    def __repr__(self) -> str:
        return (
            f"Request({self.id!r}, {self.status.value}, context={self.num_context_tokens}, "
            f"output={self.num_output_tokens}, computed={self.num_computed}, slots={self.num_slots}, "
            f"blocks={len(self.block_table)})"
        )
