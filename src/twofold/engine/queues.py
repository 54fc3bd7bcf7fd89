"""RequestQueues: where every unfinished request is (queue, prefilling, decoding), how requests come and how
they end.

Order among requests is total and fixed on arrival: the policy's rank, then first come, first served.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from heapq import heappush
from operator import attrgetter

from twofold.engine.batch import Batch
from twofold.engine.blocks import BlockManager
from twofold.engine.policy import Mixed, SchedulingPolicy
from twofold.engine.request import NEVER, FinishReason, Request, RequestStatus
from twofold.engine.retention import Retention
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.ops.compaction import Compaction

RUNNING = RequestStatus.RUNNING
by_order = attrgetter("order")


class RequestQueues:
    """Base of the scheduler. requests: unfinished requests by id."""

    def __init__(
        self,
        config: SchedulerConfig,
        blocks: BlockManager,
        policy: SchedulingPolicy | None = None,
        retention: Retention | None = None,
    ) -> None:
        assert retention is None or not blocks.prefix_caching, "entries of shared blocks cannot be dropped"
        self.config = config
        self.blocks = blocks
        self.retention = retention
        self.policy: SchedulingPolicy = policy if policy is not None else Mixed()
        if config.preemption == "swap" and not blocks.num_host_blocks:
            raise ValueError(
                "preemption is 'swap', but there are no host blocks to swap to: give some, or use 'recompute'"
            )
        if self.policy.needs_chunking and not config.chunked_prefill:
            raise ValueError(
                f"policy {self.policy.name!r} cuts prompts into chunks: switch chunked_prefill on"
            )
        self.requests: dict[str | int, Request] = {}
        # A heap by order; entries of requests that ended while waiting are skipped when they come up.
        self._waiting: list[tuple[float, int, Request]] = []
        self._num_waiting = 0
        # Both in order. A request decodes once everything but its newest output token is computed.
        self._prefilling: list[Request] = []
        self._decoding: list[Request] = []
        self._in_flight: dict[int, Batch] = {}
        self._arrivals = 0
        # Places kept for requests that are on their way from another instance.
        self.num_expected = 0
        self._max_context = config.max_context if config.max_context is not None else NEVER
        # The first in the queue and the free blocks with which it could not be admitted: not tried again with
        # fewer.
        self._refused: tuple[Request, int] | None = None
        # Entries that requests have lost since the last step, to be executed before the next one.
        self._compactions: dict[str | int, Compaction] = {}

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self.requests)

    @property
    def num_running(self) -> int:
        """Requests that hold device blocks."""
        return len(self._decoding) + len(self._prefilling)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue, swapped ones included."""
        return self._num_waiting

    @property
    def running(self) -> list[Request]:
        """Running requests, first the decoding ones."""
        return [*self._decoding, *self._prefilling]

    @property
    def decoding(self) -> Sequence[Request]:
        """Running requests that have an output token and everything before it computed, in order (to read
        only)."""
        return self._decoding

    @property
    def prefilling(self) -> Sequence[Request]:
        """Running requests of whose context something is still to be computed, in order (to read only)."""
        return self._prefilling

    @property
    def waiting(self) -> list[Request]:
        """Requests in the queue, swapped ones included, in no order."""
        return [r for _, _, r in self._waiting if r.status is not RequestStatus.FINISHED]

    @property
    def num_in_flight(self) -> int:
        """Batches scheduled and not yet updated."""
        return len(self._in_flight)

    def add(self, request: Request) -> None:
        """Queue a request. ValueError for one that could never run, or whose id is in use."""
        if request.id in self.requests:
            raise ValueError(f"request id {request.id!r} is in use by an unfinished request")
        assert request.status is RequestStatus.WAITING, f"{request!r} is not new"
        in_use = request.num_computed or request.num_output_tokens
        assert not in_use, f"{request!r} is not new"
        self.check_fits(request.id, request.num_context_tokens, 0 if request.pool else 1)
        rank = self.policy.rank(request)
        if math.isnan(rank):
            raise ValueError(
                f"request {request.id!r} has no place in the queue: policy {self.policy.name!r} ranks it nan"
            )
        request.order = (rank, self._arrivals)
        self._arrivals += 1
        self.requests[request.id] = request
        self._enqueue(request)

    def check_fits(self, id: str | int, tokens: int, output: int) -> None:
        """ValueError where `tokens` and at least `output` more could never be computed."""
        limit, slots, budget = (
            self.config.max_context,
            self.blocks.num_slots,
            self.config.max_num_batched_tokens,
        )
        has = f"request {id!r} has {tokens} tokens, but"
        if limit is not None and tokens + output > limit:
            raise ValueError(f"{has} the context ends at {limit}, output included: shorten it")
        if (most := self.most_slots(tokens + output, tokens)) > slots:
            raise ValueError(
                f"{has} the cache holds {slots} ({self.blocks.num_blocks} × {self.blocks.block_size}): "
                f"shorten it, or give the cache at least {self.blocks.blocks_for(most)} blocks"
            )
        if not self.config.chunked_prefill and tokens > budget:
            raise ValueError(
                f"{has} a step takes {budget} and prompts are not cut: raise max_num_batched_tokens, "
                f"or switch chunked_prefill on"
            )

    def most_slots(self, tokens: int, context: int) -> int:
        """Slots that suffice to compute `tokens` tokens, the first `context` of which are the context: as
        many, or, where entries are dropped on the way, what stays at most and a step's tokens."""
        if self.retention is None:
            return tokens
        return min(tokens, self.retention.most(tokens, context) + self.config.max_num_batched_tokens)

    def _enqueue(self, request: Request) -> None:
        heappush(self._waiting, (*request.order, request))
        self._num_waiting += 1
        self._refused = None

    def cancel(self, id: str | int, now: float) -> bool:
        """End a request at the user's wish. False where it is unknown or has ended already."""
        return self.finish(id, "cancelled", now)

    def finish(self, id: str | int, reason: FinishReason, now: float) -> bool:
        """End a request from outside (a stop string, a cancellation, an error). Its blocks are free at once,
        or at the `update` of the batch in flight that writes to them. False where it is unknown or has ended
        already."""
        request = self.requests.get(id)
        if request is None or request._pending_finish is not None:
            return False
        if request.in_flight:
            request._pending_finish = reason
        else:
            self._end(request, reason, now)
        return True

    def abort(self, now: float, reason: FinishReason = "aborted") -> list[Request]:
        """End everything at once, batches in flight included: these are void and must not be updated any
        more; the caller has made sure that nothing executes. Returns the requests that this ended."""
        ended = list(self.requests.values())
        self._in_flight.clear()
        for request in ended:
            request.in_flight = False
            self._end(request, request._pending_finish or reason, now)
        self._waiting.clear()
        if self.blocks.swapping.reuse:  # what the batches in flight were to copy never was
            self.blocks.forget_cached()
        return ended

    # Requests that go to another instance with their cache, or come from there

    def detach(self, request: Request) -> list[int]:
        """Let a running request go that is not in flight. Returns its blocks, which stay taken until
        `blocks.reclaim`."""
        busy = request.status is not RUNNING or request.in_flight
        assert not busy, f"{request!r} cannot leave"
        self._leave(request)
        request.forget_drafts()
        del self.requests[request.id]
        self._refused = None
        return self.blocks.part_with(request)

    def attach(self, request: Request, table: list[int]) -> None:
        """Go on with a request that was detached elsewhere and whose cache is in the lent blocks `table`. It
        takes one of the places that were kept (`num_expected`)."""
        assert request.status is RUNNING, request
        assert self.num_expected, f"nobody was expected, but {request!r} came"
        self.num_expected -= 1
        self.blocks.own(request, table)
        request.order = (self.policy.rank(request), self._arrivals)
        self._arrivals += 1
        self.requests[request.id] = request
        insort(self._prefilling if request.is_prefilling else self._decoding, request, key=by_order)

    def _end(self, request: Request, reason: FinishReason, now: float) -> None:
        self._leave(request)
        self._free(request)
        request.forget_drafts()
        request.status = RequestStatus.FINISHED
        request.finish_reason = reason
        request.finished_time = now
        del self.requests[request.id]

    def _free(self, request: Request) -> None:
        """Give back its cache."""
        self._compactions.pop(request.id, None)
        self.blocks.free(request)

    def _leave(self, request: Request) -> None:
        """Take it out of the running lists (or leave its entry in the queue, which is skipped later)."""
        if request.status is not RUNNING:
            self._num_waiting -= 1
        elif request.num_output_tokens and request in self._decoding:
            self._decoding.remove(request)
        else:
            self._prefilling.remove(request)
