"""Scheduler: which tokens of which requests the next step computes. It knows neither model, device nor clock.

    batch = scheduler.schedule(now)      # decisions only; execute batch.swap_out, batch.swap_in, then the
    tokens ended = scheduler.update(batch, sampled, now)

A step may be scheduled while others are still in flight (pipeline parallelism): requests in an unfinished
batch are left alone until its `update`. Whoever is earlier in the order is admitted first, and takes memory
from whoever is later, never the reverse: the first always makes progress, so nobody waits for ever.
"""

from __future__ import annotations

from bisect import insort
from heapq import heappop
from operator import attrgetter

from twofold.engine.batch import Batch, Scheduled
from twofold.engine.blocks import BlockManager
from twofold.engine.policy import SchedulingPolicy
from twofold.engine.queues import RUNNING, by_order
from twofold.engine.request import Request, RequestStatus
from twofold.engine.retention import Retention
from twofold.engine.room import Room
from twofold.engine.scheduler_config import SchedulerConfig

_last_step = attrgetter("last_step")


class Scheduler(Room):
    """Continuous batching over a paged cache.

    Counters: num_steps, num_preempted, num_stalled (times a request sat out a step for want of a block).
    """

    def __init__(
        self,
        config: SchedulerConfig,
        blocks: BlockManager,
        policy: SchedulingPolicy | None = None,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(config, blocks, policy, retention)
        self._watermark = int(config.watermark * blocks.num_blocks)
        self._now = 0.0
        self._tokens_left = 0
        self._stalled = False
        self._made_room = False
        # Requests that lost their place in this step because ranks have changed.
        self._ranked_out = 0
        # Set when the kind that goes second found no room; it then goes first in the next step.
        self._owed = False
        self.num_steps = 0
        self.num_preempted = 0
        self.num_stalled = 0

    # A step is decided

    def schedule(self, now: float) -> Batch:
        """Decide the next step. May be empty: nothing to do, or everything is in flight or waits for
        memory."""
        batch = Batch(self.num_steps, self.num_running)
        self._now = now
        self.num_steps += 1
        self._tokens_left = self.config.max_num_batched_tokens
        # What is free now may have been freed for whoever stalled: nobody else is let in first.
        self._made_room = self._stalled and self.blocks.num_leaving > 0
        self._stalled = False
        policy = self.policy
        self.blocks.settle()
        if policy.period and batch.step % policy.period == 0:
            self._rank_anew(batch)
        self._ranked_out = len(batch.preempted)
        decodes_first = policy.decodes_first != self._owed
        self._owed = False
        if decodes_first:
            self._schedule_decodes(batch)
        if policy.mixes or not batch.entries:
            self._schedule_prefills(batch)
        if not decodes_first and (policy.mixes or not batch.entries):
            self._schedule_decodes(batch)
        batch.swap_out += self.blocks.parting()
        if batch.entries:
            self._in_flight[batch.step] = batch
        if self._compactions and not batch.is_empty:
            batch.compactions += self._compactions.values()
            self._compactions.clear()
        return batch

    def _schedule_decodes(self, batch: Batch) -> None:
        blocks = self.blocks
        size = blocks.block_size
        step, lookahead = batch.step, self.config.lookahead
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
            if request.in_flight or request.status is not RUNNING or request.last_step == step:
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
            if lookahead:
                self._grow_ahead(request, need + lookahead)
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

    def _grow_ahead(self, request: Request, num_slots: int) -> None:
        """Get `request` the blocks that it will need soon, where more are free than admission leaves."""
        most = request.num_slots + request.max_tokens - request.num_output_tokens
        num_slots = min(num_slots, most, self.blocks.num_slots)
        if self.blocks.num_free > self._watermark:
            self.blocks.grow(request, num_slots)

    def _usable_drafts(self, request: Request, spare_tokens: int) -> int:
        """How many drafts are worth verifying now: those that limits allow and that fit without taking memory
        from others."""
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
            if request.in_flight or request.status is not RUNNING or request.last_step == batch.step:
                continue
            num = self._chunk(request, self._remaining(request, request.num_computed), batch)
            if not num:
                return
            if self._grow(request, request.num_slots + num, batch):
                self._append_prefill(request, num, batch)
            else:
                self._owed = True
        held = self._stalled or (self._made_room and self.num_running)
        if not held and len(batch.preempted) == self._ranked_out:
            self._admit_waiting(batch)

    def _remaining(self, request: Request, computed: int) -> int:
        """Tokens that it has to compute before something else is to be done. Where entries are dropped, its
        context ends a chunk, so that what stays of it does not depend on preemptions."""
        context = request.num_context_tokens
        end = context if self.retention is not None and computed < context else request.num_tokens
        return end - computed

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
        samples = start + num == request.num_tokens and not request.pool
        request.forget_drafts()
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
        while waiting and self.num_running + self.num_expected < self.config.max_num_seqs:
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
        if self.retention is not None:
            total = max(request.num_slots, min(total, self._most_slots_of(request)))
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
        copies = blocks.match_kept(request, prefix)
        need = blocks.blocks_for(self._most_slots_of(request)) - len(prefix) + blocks.num_idle(prefix)
        if need > spendable:
            self._refused = (request, spendable)
            return False
        cached = (len(prefix) + len(copies)) * blocks.block_size
        num = self._chunk(request, self._remaining(request, cached), batch)
        if not num:
            return False
        blocks.attach(request, prefix)
        batch.swap_in += blocks.bring(request, copies)
        if not request.num_preemptions:
            request.num_cached_tokens = request.num_computed
        insort(self._prefilling, request, key=by_order)
        if copies and blocks.swapping.overlapped:
            request.last_step = batch.step  # while they are copied it takes part in nothing
            return True
        fits = blocks.grow(request, request.num_slots + num)
        assert fits, f"{request!r} was promised {need} blocks"
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
        if blocks.swapping.overlapped:
            request.last_step = batch.step  # while it is copied it takes part in nothing
        # It takes part from the next step on (or already in this one, where the decodes are still to be
        # scheduled).
        insort(self._prefilling if prefilling else self._decoding, request, key=by_order)
        return True
