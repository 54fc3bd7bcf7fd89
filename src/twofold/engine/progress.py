"""Progress: what the results of a step do to its requests: tokens appended, drafts rolled back, ends
detected."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from twofold.engine.batch import Batch
from twofold.engine.queues import RUNNING, RequestQueues, by_order
from twofold.engine.request import FinishReason, Request, RequestStatus
from twofold.engine.retention import Retention
from twofold.ops.compaction import Compaction


class Progress(RequestQueues):
    """The half of the scheduler that follows a step; `Scheduler` adds the half that decides one."""

    def update(self, batch: Batch, sampled: Sequence[Sequence[int]], now: float) -> list[Request]:
        """Take in the results of a batch: for each entry the tokens it yielded (accepted drafts, then one new
        token), none where it does not sample. Tokens behind a stop token or a limit are dropped. Returns the
        requests that ended."""
        return self._take_in(batch, sampled, None, now)

    def update_counts(self, batch: Batch, counts: Sequence[int] | None, now: float) -> list[Request]:
        """The same where ids are unknown: how many tokens each entry yielded (None: one for each that
        samples)."""
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
        for index, entry in enumerate(batch.entries):
            request = entry.request
            request.in_flight = False
            if request._pending_finish is not None:
                self._end(request, request._pending_finish, now)
                ended.append(request)
                continue
            if request._pending_context is not None:
                assert results is None or not results[index], f"{entry!r}: its context has been replaced"
                self._restart(request, request._pending_context)
                continue
            num = entry.num_tokens
            if not entry.samples:
                assert results is None or not results[index], f"{entry!r} yields no tokens"
                request.num_computed += num
                request.num_slots += num
                if request.num_computed >= request._boundary:
                    blocks.register(request)
                if request.pool and request.num_computed == request.num_tokens:
                    self._end(request, "stop", now)
                    ended.append(request)
                elif self.retention is not None:
                    self._retain(request, self.retention)
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
                insort(self._decoding, request, key=by_order)
            if self.retention is not None:
                self._retain(request, self.retention)
            reason = reason or self._limit_met(request)
            if reason is not None:
                self._end(request, reason, now)
                ended.append(request)
        return ended

    def _limit_met(self, request: Request) -> FinishReason | None:
        """Why a request cannot go on after its newest token; None where it can."""
        if request.num_output_tokens >= request.max_tokens or request.num_tokens >= self._max_context:
            return "length"
        return "capacity" if request.num_slots >= self.blocks.num_slots else None

    def _append(self, request: Request, ids: Sequence[int]) -> tuple[int, FinishReason | None]:
        """Append output tokens up to a stop token or max_tokens. Returns how many, and "stop" where one was
        met."""
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

    def _retain(self, request: Request, retention: Retention) -> None:
        """Shorten the request to what stays of it. Its blocks behind are free at once; the entries themselves
        are moved before anything else is written (see `Batch.compactions`)."""
        slots, computed, context = request.num_slots, request.num_computed, request.num_context_tokens
        kept = retention.kept(slots, computed, context)
        assert 0 < kept <= slots, f"{request!r} cannot keep {kept} slots"
        if kept < slots:
            assert request.id not in self._compactions, f"{request!r} was not compacted"
            table = request.block_table.copy()
            self._compactions[request.id] = Compaction(table, slots, kept, computed, context)
            request.num_slots = kept
            self.blocks.trim(request, kept)

    def replace_context(self, request: Request, context: Sequence[int] | int) -> None:
        """Let the model see `context` (ids, or their number) instead of the prompt, before the first token is
        generated. What is computed is dropped; of a batch in flight the result is ignored, and must be empty
        for this request."""
        in_use = request.num_output_tokens or request.is_finished
        assert not in_use, f"{request!r}: too late"
        assert not request.pool, f"{request!r} is about all of its prompt"
        self.check_fits(request.id, context if isinstance(context, int) else len(context), 1)
        if request.in_flight:
            request._pending_context = context
        else:
            self._restart(request, context)

    def _restart(self, request: Request, context: Sequence[int] | int) -> None:
        request._pending_context = None
        self._free(request)
        request.forget_computed()
        request.replace_context(context)
        self._refused = None
        if request.status is RequestStatus.SWAPPED:
            request.status = RequestStatus.WAITING
        elif request.status is RUNNING:
            self.blocks.attach(request, self.blocks.match_prefix(request))
            request.num_cached_tokens = request.num_computed
