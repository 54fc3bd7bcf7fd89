"""Room: who gives up memory to whom, and whose place is lost when ranks change."""

from __future__ import annotations

from heapq import heapify

from twofold.engine.batch import Batch
from twofold.engine.queues import RUNNING, by_order
from twofold.engine.request import Request, RequestStatus
from twofold.engine.steady import Steady


class Room(Steady):
    """The part of the scheduler that makes room: whoever is later in the order gives way."""

    num_preempted: int
    num_stalled: int
    _now: float
    _stalled: bool

    def _most_slots_of(self, request: Request) -> int:
        return self.most_slots(request.num_tokens, request.num_context_tokens)

    # Ranks change

    def _rank_anew(self, batch: Batch) -> None:
        """Rank all requests again; those that run and would not, if all were admitted in order, make room."""
        for request in self.requests.values():
            request.order = (self.policy.rank(request), request.order[1])
        self._waiting = [(*r.order, r) for _, _, r in self._waiting if r.status is not RequestStatus.FINISHED]
        heapify(self._waiting)
        self._prefilling.sort(key=by_order)
        self._decoding.sort(key=by_order)
        self._refused = None
        blocks = self.blocks
        seats = self.config.max_num_seqs - self.num_expected
        room = blocks.num_blocks - blocks.num_withheld - self._watermark
        first_waiting = self._waiting[0][:2] if self._waiting else None
        if first_waiting is None:
            return
        for request in sorted(self.requests.values(), key=by_order):
            need = blocks.blocks_for(request.num_slots + request.num_tokens - request.num_computed + 1)
            seats, room = seats - 1, room - need
            running = request.status is RUNNING and not request.in_flight
            if (seats < 0 or room < 0) and running and request.order > first_waiting:
                self._preempt(request, batch)

    # Memory is short

    def _grow(self, request: Request, num_slots: int, batch: Batch) -> bool:
        """Get `request` its blocks, from those behind it if need be. False: it sits out this step."""
        blocks = self.blocks
        while not blocks.grow(request, num_slots):
            victim = self._last_behind(request)
            missing = blocks.blocks_for(num_slots) - len(request.block_table)
            # What is being copied in cannot be thrown out in the same step; what is being copied out will be
            # free in the next one.
            if victim is None or batch.swap_in or missing <= blocks.num_free + blocks.num_leaving:
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
        if not swap and self._most_slots_of(request) > self.blocks.num_slots:
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
            self._free(request)
            request.forget_computed()
            request.status = RequestStatus.WAITING
        self._enqueue(request)
