"""Steady: the steps before which the scheduler has nothing to decide.

Most steps of a long load decode one token of every running request and do nothing else. How many of them
follow each other is known in advance where outputs are only counted, so a prediction can charge them one
after the other and tell the scheduler once.
"""

from __future__ import annotations

from collections.abc import Sequence

from twofold.engine.progress import Progress
from twofold.engine.request import FinishReason, Request


class Steady(Progress):
    """The part of the scheduler that knows when the next steps are alike."""

    num_steps: int
    _watermark: int
    _owed: bool

    def steady_steps(self) -> int:
        """How many of the next steps decode a token of every running request and do nothing else: nobody
        begins, waits for a block or loses its place, and nobody ends before the last of them. 0 where the
        next step has to be decided. Requests that arrive later change that, and so do drafts."""
        if self._in_flight or self._prefilling or self._owed or self.config.pipeline_depth > 1:
            return 0
        if self.retention is not None:
            return 0
        if not self._decoding or self._may_admit():
            return 0
        slots, context = self.blocks.num_slots, self._max_context
        if self.blocks.num_leaving or self.blocks.swapping.group:
            return 0  # which blocks lie in a row depends on when each is taken
        steps = min(
            [
                min(
                    r.max_tokens - r.num_output_tokens,
                    context - r.num_tokens,
                    slots - r.num_slots,
                    r._boundary - r.num_computed,
                )
                for r in self._decoding
            ]
        )
        if period := self.policy.period:
            steps = min(steps, -self.num_steps % period)
        while steps and self._missing(steps) > self.blocks.num_free:
            steps //= 2
        return steps

    def advance(self, moments: Sequence[float]) -> list[tuple[Request, FinishReason]]:
        """Take in as many steady steps as there are `moments`, the times at which their tokens were there.
        Returns the requests that cannot go on, and why: `finish` them."""
        steps, now = len(moments), moments[-1]
        over: list[tuple[Request, FinishReason]] = []
        for request in self._decoding:
            assert not request.num_drafts, f"{request!r} has drafts to verify"
            fits = self.blocks.grow(request, request.num_slots + steps)
            assert fits, f"{request!r} was promised blocks for {steps} steps"
            request.num_output_tokens += steps
            request.num_tokens += steps
            request.num_computed += steps
            request.num_slots += steps
            if request.num_computed >= request._boundary:
                self.blocks.register(request)
            request.last_token_time = now
            if request.token_times is not None:
                request.token_times += moments
            if (reason := self._limit_met(request)) is not None:
                over.append((request, reason))
        self.num_steps += steps
        return over

    def _may_admit(self) -> bool:
        """Whether the next step might take a request from the queue."""
        if not self._num_waiting or self.num_running >= self.config.max_num_seqs:
            return False
        if self._refused is None or self._waiting[0][2] is not self._refused[0]:
            return True
        return self.blocks.num_free - self._watermark > self._refused[1]

    def _missing(self, steps: int) -> int:
        """Blocks that running requests need in addition for `steps` tokens each."""
        size = self.blocks.block_size
        return sum([max(0, -(-(r.num_slots + steps) // size) - len(r.block_table)) for r in self._decoding])
