"""Scheduler: which tokens of which requests the next step computes. It knows neither model, device nor clock.

    batch = scheduler.schedule(now)      # decisions only; execute batch.swap_out, batch.swap_in, then the tokens
    ended = scheduler.update(batch, sampled, now)

A step may be scheduled while others are still in flight (pipeline parallelism): requests in an unfinished batch are left
alone until its `update`. Whoever is earlier in the order is admitted first, and takes memory from whoever is later, never
the reverse: the first always makes progress, so nobody waits for ever.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from heapq import heappop
from operator import attrgetter

from twofold.engine.batch import Batch, Scheduled
from twofold.engine.blocks import BlockManager
from twofold.engine.policy import SchedulingPolicy
from twofold.engine.queues import RUNNING, RequestQueues
from twofold.engine.request import NEVER, FinishReason, Request, RequestStatus
from twofold.engine.scheduler_config import SchedulerConfig

_order = attrgetter("order")
_last_step = attrgetter("last_step")


class Scheduler(RequestQueues):
    """Continuous batching over a paged cache.

    Counters: num_steps, num_preempted, num_stalled (times a request sat out a step for want of a block).
    """

    def __init__(
        self, config: SchedulerConfig, blocks: BlockManager, policy: SchedulingPolicy | None = None
    ) -> None:
        super().__init__(config, blocks, policy)
        self._watermark = int(config.watermark * blocks.num_blocks)
        self._max_context = config.max_context if config.max_context is not None else NEVER
        self._now = 0.0
        self._tokens_left = 0
        self._stalled = False
        # Set when the kind that goes second found no room; it then goes first in the next step.
        self._owed = False
        self.num_steps = 0
        self.num_preempted = 0
        self.num_stalled = 0

    # A step is decided

    def schedule(self, now: float) -> Batch:
        """Decide the next step. May be empty: nothing to do, or everything is in flight or waits for memory."""
        batch = Batch(self.num_steps, self.num_running)
        self._now = now
        self.num_steps += 1
        self._tokens_left = self.config.max_num_batched_tokens
        self._stalled = False
        policy = self.policy
        decodes_first = policy.decodes_first != self._owed
        self._owed = False
        if decodes_first:
            self._schedule_decodes(batch)
        if policy.mixes or not batch.entries:
            self._schedule_prefills(batch)
        if not decodes_first and (policy.mixes or not batch.entries):
            self._schedule_decodes(batch)
        if batch.entries:
            self._in_flight[batch.step] = batch
        return batch

    def _schedule_decodes(self, batch: Batch) -> None:
        blocks = self.blocks
        size = blocks.block_size
        step = batch.step
        append = batch.entries.append
        candidates = self._decoding.copy()
        seats = len(candidates)
        if self.config.pipeline_depth > 1:
            # Spread over the batches in flight; who has waited longest goes first.
            seats = -(-seats // self.config.pipeline_depth)
            candidates.sort(key=_last_step)
        left = self._tokens_left
        count = tokens = keys = pairs = 0
        for request in candidates:
            if request.in_flight or request.status is not RUNNING:
                continue
            if count == seats or not left:
                break
            slot = request.num_slots
            drafts = 0
            if request.num_drafts:
                drafts = self._usable_drafts(request, left - 1 - (len(candidates) - count - 1))
            need = slot + drafts + 1
            if need > len(request.block_table) * size and not self._grow(request, need, batch):
                continue
            num = 1 + drafts
            append(Scheduled(request, num, request.num_computed, slot, False, True, drafts))
            request.in_flight = True
            request.last_step = step
            count += 1
            left -= num
            tokens += num
            keys += need
            pairs += num * slot + num * (num + 1) // 2
        self._tokens_left = left
        batch.num_decodes += count
        batch.num_samples += count
        batch.num_decode_tokens += tokens
        batch.total_keys += keys
        batch.query_keys += pairs

    def _usable_drafts(self, request: Request, spare_tokens: int) -> int:
        """How many drafts are worth verifying now: those that limits allow and that fit without taking memory from others."""
        num = min(
            request.num_drafts,
            spare_tokens,
            request.max_tokens - request.num_output_tokens - 1,
            self._max_context - request.num_tokens - 1,
            self.blocks.num_slots - request.num_slots - 1,
        )
        if num <= 0 or not self.blocks.grow(request, request.num_slots + 1 + num):
            num = 0
        if num < request.num_drafts:
            request.num_drafts = num
            del request.draft_ids[num:]
        return num

    def _schedule_prefills(self, batch: Batch) -> None:
        for request in self._prefilling.copy():
            if request.in_flight or request.status is not RUNNING:
                continue
            num = self._chunk(request, request.num_tokens - request.num_computed, batch)
            if not num:
                return
            if self._grow(request, request.num_slots + num, batch):
                self._append_prefill(request, num, batch)
            else:
                self._owed = True
        if not (self._stalled or batch.preempted):
            self._admit_waiting(batch)

    def _chunk(self, request: Request, remaining: int, batch: Batch) -> int:
        """Tokens of it to compute now; 0 where it has to wait for another step."""
        left = self._tokens_left
        if not left:
            return 0
        num = min(self.policy.chunk(request, remaining, batch, left), remaining, left)
        if num < remaining and not self.config.chunked_prefill and num < self.config.max_num_batched_tokens:
            # It fits whole once the decodes let it go first.
            self._owed = self._owed or not batch.num_prefills
            return 0
        return num

    def _append_prefill(self, request: Request, num: int, batch: Batch) -> None:
        start, slot = request.num_computed, request.num_slots
        samples = start + num == request.num_tokens
        batch.entries.append(Scheduled(request, num, start, slot, True, samples, 0))
        request.in_flight = True
        request.last_step = batch.step
        self._tokens_left -= num
        batch.num_prefills += 1
        batch.num_prefill_tokens += num
        batch.num_samples += samples
        batch.total_keys += slot + num
        batch.query_keys += num * slot + num * (num + 1) // 2

    # Admission

    def _admit_waiting(self, batch: Batch) -> None:
        waiting = self._waiting
        blocks = self.blocks
        if not waiting:
            return
        # Blocks that admitted prompts have yet to take are spoken for.
        spare = blocks.num_free
        for request in self._prefilling:
            spare -= self._blocks_to_come(request)
        while waiting and self.num_running < self.config.max_num_seqs:
            request = waiting[0][2]
            if request.status is RequestStatus.FINISHED:
                heappop(waiting)
                continue
            spendable = spare - (self._watermark if self.num_running else 0)
            if self._refused is not None and self._refused[0] is request and spendable <= self._refused[1]:
                return
            free = blocks.num_free
            if request.status is RequestStatus.SWAPPED:
                admitted = self._swap_in(request, spendable, batch)
            else:
                admitted = self._admit(request, spendable, batch)
            if not admitted:
                return
            heappop(waiting)
            self._num_waiting -= 1
            request.status = RUNNING
            if request.first_scheduled_time is None:
                request.first_scheduled_time = self._now
            spare -= free - blocks.num_free
            if request.is_prefilling:
                spare -= self._blocks_to_come(request)

    def _blocks_to_come(self, request: Request) -> int:
        total = request.num_slots + request.num_tokens - request.num_computed
        return self.blocks.blocks_for(total) - len(request.block_table)

    def _admit(self, request: Request, spendable: int, batch: Batch) -> bool:
        """Begin a prompt (or the recomputation of one) where its whole context fits in memory."""
        blocks = self.blocks
        if (
            not self._tokens_left
            or self.policy.chunk(request, request.num_tokens, batch, self._tokens_left) <= 0
        ):
            return False
        prefix = blocks.match_prefix(request)
        need = blocks.blocks_for(request.num_tokens) - len(prefix) + blocks.num_idle(prefix)
        if need > spendable:
            self._refused = (request, spendable)
            return False
        num = self._chunk(request, request.num_tokens - len(prefix) * blocks.block_size, batch)
        if not num:
            return False
        blocks.attach(request, prefix)
        request.num_cached_tokens += request.num_computed
        fits = blocks.grow(request, request.num_slots + num)
        assert fits, f"{request!r} was promised {need} blocks"
        insort(self._prefilling, request, key=_order)
        self._append_prefill(request, num, batch)
        return True

    def _swap_in(self, request: Request, spendable: int, batch: Batch) -> bool:
        """Bring a swapped request back where it fits with a block to grow into."""
        blocks = self.blocks
        prefilling = request.is_prefilling
        need = blocks.blocks_to_swap_in(request)
        need += max(0, self._blocks_to_come(request) - len(request.host_table))
        if need > spendable:
            self._refused = (request, spendable)
            return False
        batch.swap_in += blocks.swap_in(request)
        # It takes part from the next step on (or already in this one, where the decodes are still to be scheduled).
        insort(self._prefilling if prefilling else self._decoding, request, key=_order)
        return True

    # Memory is short

    def _grow(self, request: Request, num_slots: int, batch: Batch) -> bool:
        """Get `request` its blocks, from those behind it if need be. False: it sits out this step."""
        while not self.blocks.grow(request, num_slots):
            victim = self._last_behind(request)
            # What is being copied in cannot be thrown out in the same step.
            if victim is None or batch.swap_in:
                self._stalled = True
                self.num_stalled += 1
                return False
            self._preempt(victim, batch)
        return True

    def _last_behind(self, request: Request) -> Request | None:
        """The last running request in order that is behind `request` and not in flight."""
        last: Request | None = None
        order = request.order
        for running in (self._decoding, self._prefilling):
            for candidate in reversed(running):
                if candidate.order <= order:
                    break
                if not candidate.in_flight:
                    last, order = candidate, candidate.order
                    break
        return last

    def _preempt(self, request: Request, batch: Batch) -> None:
        swap = self.config.preemption == "swap" and self.blocks.can_swap_out(request)
        if not swap and request.num_tokens > self.blocks.num_slots:
            # Only evicting from its cache has let it grow this long; computing it again would not fit.
            self._end(request, "capacity", self._now)
            batch.finished.append(request)
            return
        self._leave(request)
        request.num_preemptions += 1
        request.forget_drafts()
        self.num_preempted += 1
        batch.preempted.append(request)
        if swap:
            batch.swap_out += self.blocks.swap_out(request)
            request.status = RequestStatus.SWAPPED
        else:
            self.blocks.free(request)
            request.forget_computed()
            request.status = RequestStatus.WAITING
        self._enqueue(request)

    # A step is done

    def update(self, batch: Batch, sampled: Sequence[Sequence[int]], now: float) -> list[Request]:
        """Take in the results of a batch: for each entry the tokens it yielded (accepted drafts, then one new token), none
        where it does not sample. Tokens behind a stop token or a limit are dropped. Returns the requests that ended."""
        return self._take_in(batch, sampled, None, now)

    def update_counts(self, batch: Batch, counts: Sequence[int] | None, now: float) -> list[Request]:
        """The same where ids are unknown: how many tokens each entry yielded (None: one for each that samples)."""
        return self._take_in(batch, None, counts, now)

    def _take_in(
        self, batch: Batch, sampled: Sequence[Sequence[int]] | None, counts: Sequence[int] | None, now: float
    ) -> list[Request]:
        ended: list[Request] = []
        if not batch.entries:
            return ended
        flown = self._in_flight.pop(batch.step, None)
        assert flown is batch, f"{batch!r} is not in flight"
        results = sampled if sampled is not None else counts
        assert results is None or len(results) == len(batch.entries), f"{len(results)} results for {batch!r}"
        blocks = self.blocks
        max_slots, max_context = blocks.num_slots, self._max_context
        for index, entry in enumerate(batch.entries):
            request = entry.request
            request.in_flight = False
            if request._pending_finish is not None:
                self._end(request, request._pending_finish, now)
                ended.append(request)
                continue
            if request._pending_context is not None:
                self._restart(request, request._pending_context)
                continue
            num = entry.num_tokens
            if not entry.samples:
                assert results is None or not results[index], f"{entry!r} yields no tokens"
                request.num_computed += num
                request.num_slots += num
                if request.num_computed >= request._boundary:
                    blocks.register(request)
                continue
            reason: FinishReason | None = None
            drafts = entry.num_drafts
            if sampled is None:
                yielded = 1 if counts is None else counts[index]
                kept = min(yielded, request.max_tokens - request.num_output_tokens)
                request.num_output_tokens += kept
            else:
                ids = sampled[index]
                yielded = len(ids)
                kept, reason = self._append(request, ids)
            assert 1 <= yielded <= 1 + drafts, f"{yielded} tokens from {entry!r}"
            request.num_tokens += kept
            if drafts:
                request.num_drafted += drafts
                request.num_accepted += yielded - 1
                request.forget_drafts()
                num -= drafts - kept + 1
            request.num_computed += num
            request.num_slots += num
            if drafts:
                blocks.trim(request, request.num_slots)
            if request.num_computed >= request._boundary:
                blocks.register(request)
            if request.first_token_time is None:
                request.first_token_time = now
            request.last_token_time = now
            if request.token_times is not None:
                request.token_times += [now] * kept
            if entry.is_prefill:
                self._prefilling.remove(request)
                insort(self._decoding, request, key=_order)
            if reason is None:
                if request.num_output_tokens >= request.max_tokens or request.num_tokens >= max_context:
                    reason = "length"
                elif request.num_slots >= max_slots:
                    reason = "capacity"
                else:
                    continue
            self._end(request, reason, now)
            ended.append(request)
        return ended

    def _append(self, request: Request, ids: Sequence[int]) -> tuple[int, FinishReason | None]:
        """Append output tokens up to a stop token or max_tokens. Returns how many, and "stop" where one was met."""
        output = request.output_ids
        count = request.num_output_tokens
        before = count
        for token in ids:
            output.append(token)
            count += 1
            if token in request.stop_ids and count >= request.min_tokens:
                request.num_output_tokens = count
                request.stop_token = token
                return count - before, "stop"
            if count >= request.max_tokens:
                break
        request.num_output_tokens = count
        return count - before, None

    # Techniques that change what is cached

    def evict(self, request: Request, num_slots: int) -> None:
        """A cache technique has moved what it keeps of the request into its first `num_slots` slots: free the blocks behind.
        Between `update` and `schedule`; the request must not share blocks. Nothing to do where it has ended."""
        if request.status is RequestStatus.FINISHED:
            return
        assert not request.in_flight and not request.share_prefix and not request.chain, (
            f"{request!r} cannot be evicted from"
        )
        assert request.status is RUNNING and 0 < num_slots <= request.num_slots, (request, num_slots)
        request.num_slots = num_slots
        self.blocks.trim(request, num_slots)

    def replace_context(self, request: Request, context: Sequence[int] | int) -> None:
        """Let the model see `context` (ids, or their number) instead of the prompt, before the first token is generated.
        What is computed is dropped; of a batch in flight the result is ignored, and must be empty for this request."""
        assert not request.num_output_tokens and request.status is not RequestStatus.FINISHED, (
            f"{request!r} is too late"
        )
        self._check_fits(request.id, context if isinstance(context, int) else len(context))
        if request.in_flight:
            request._pending_context = context
        else:
            self._restart(request, context)

    def _restart(self, request: Request, context: Sequence[int] | int) -> None:
        request._pending_context = None
        self.blocks.free(request)
        request.forget_computed()
        request.replace_context(context)
        if request.status is RequestStatus.SWAPPED:
            request.status = RequestStatus.WAITING
        elif request.status is RUNNING:
            self.blocks.attach(request, self.blocks.match_prefix(request))
            request.num_cached_tokens += request.num_computed
