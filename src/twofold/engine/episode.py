"""Episode: one random scheduler played until its last request has ended, every invariant checked on the
way."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass, field, fields
from math import inf
from random import Random

from twofold.engine.batch import Batch
from twofold.engine.blocks import BlockManager
from twofold.engine.integrity import check
from twofold.engine.policy import POLICIES, Mixed
from twofold.engine.request import Request, SamplingParams
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.engine.simulated_model import (
    VOCAB_SIZE,
    SimulatedModel,
    SimulatedRetention,
    expected_output,
)
from twofold.engine.simulated_swapping import random_swapping, restless

# A thirty-second of the vocabulary ends a sequence.
STOP_IDS = frozenset(range(VOCAB_SIZE // 32))
CHECK_EVERY = 32
# Steps in which the first in order may make no progress while all memory is there: it may wait for running
# requests to end, whose outputs are short here, and for a few turns of the pipeline.
PATIENCE_STEPS = 400


@dataclass(slots=True)
class SimulationResult:
    """What was played: counts of requests by the way they ended, of steps, tokens and events.

    longest_wait: most steps that the first request in order went without progress; digest: of all outputs and
    batches, equal for equal seeds.
    """

    seed: int
    requests: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    episodes: int = 0
    steps: int = 0
    tokens_computed: int = 0
    tokens_generated: int = 0
    cached_tokens: int = 0
    preempted: int = 0
    swapped_out: int = 0
    swapped_in: int = 0
    stalled: int = 0
    drafted: int = 0
    accepted: int = 0
    contexts_replaced: int = 0
    compactions: int = 0
    reused: int = 0
    memory_faults: int = 0
    aborts: int = 0
    longest_wait: int = 0
    digest: int = 0

    def add(self, other: SimulationResult) -> None:
        """Add the counts of an episode."""
        for name in (f.name for f in fields(self) if f.name != "seed"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name == "longest_wait":
                setattr(self, name, max(mine, theirs))
            elif name == "digest":
                self.digest = zlib.crc32(theirs.to_bytes(8, "little"), mine)
            else:
                setattr(self, name, mine + theirs)


class Episode:
    """One scheduler with random settings, from the first arrival until the last request has ended."""

    def __init__(self, rng: Random, num_requests: int, *, seed: int, faults: bool) -> None:
        self.rng = rng
        self.faults = faults
        self.result = SimulationResult(seed, requests=num_requests, episodes=1)
        # From a generator of its own, so that everything else is as it would be without.
        extras = Random(hash(rng.getstate()[1]))
        self.retention = random_retention(extras)
        self.scheduler = random_scheduler(rng, self.retention, extras)
        self.blocks = self.scheduler.blocks
        self.model = SimulatedModel(self.blocks, self.retention)
        self.now = 0.0
        self.pending: deque[Batch] = deque()
        # Few distinct tokens and few beginnings: equal blocks behind unequal ones are common.
        self.beginnings = [rng.choices(range(3), k=rng.randint(1, 40)) for _ in range(4)]
        self.draft_rate = rng.choice([0.0, 0.0, 0.5, 0.9])
        self.replace_rate = rng.choice([0.0, 0.0, 0.2])
        gap = rng.choice([0.001, 0.01, 0.1])
        self.arrivals: list[float] = []
        for _ in range(num_requests):
            self.arrivals.append((self.arrivals[-1] if self.arrivals else 0.0) + rng.expovariate(1 / gap))
        self.next_arrival = 0
        self.expected: dict[str | int, list[int]] = {}
        self.to_replace: dict[str | int, list[int]] = {}
        self.first: tuple[object, ...] = ()
        self.first_since = 0
        self.empty_steps = 0

    @property
    def step(self) -> int:
        """Steps so far."""
        return self.scheduler.num_steps

    def play(self) -> SimulationResult:
        """Run it and return its counts. Any broken invariant raises."""
        scheduler, result = self.scheduler, self.result
        while self.next_arrival < len(self.arrivals) or scheduler.has_work:
            self.arrive()
            if self.faults:
                self.inject_faults()
            self.draft()
            batch = scheduler.schedule(self.now)
            self.inspect(batch)
            if not batch.is_empty:
                self.pending.append(batch)
                self.empty_steps = 0
            if self.pending and (batch.is_empty or len(self.pending) >= scheduler.config.pipeline_depth):
                self.complete(self.pending.popleft())
            elif batch.is_empty and not self.pending:
                self.idle()
            if scheduler.num_steps % CHECK_EVERY == 0:
                check(scheduler)
                self.watch_first()
        self.blocks.restore()
        check(scheduler)
        assert sum(result.ended.values()) == result.requests, f"requests were lost: {result.ended}"
        result.steps = scheduler.num_steps
        result.preempted, result.stalled = scheduler.num_preempted, scheduler.num_stalled
        result.swapped_out, result.swapped_in = self.blocks.num_swapped_out, self.blocks.num_swapped_in
        result.cached_tokens = self.blocks.hit_tokens
        result.reused = self.blocks.num_reused
        return result

    def arrive(self) -> None:
        """Add the requests whose time has come; those that can never fit must be refused."""
        rng, scheduler = self.rng, self.scheduler
        while self.next_arrival < len(self.arrivals) and self.arrivals[self.next_arrival] <= self.now:
            ids = rng.choice(self.beginnings)[: rng.randint(1, 40)] + rng.choices(
                range(3), k=rng.randint(0, 24)
            )
            longest = rng.randint(1, 40)
            params = SamplingParams(
                max_tokens=longest, min_tokens=rng.randint(0, longest), ignore_eos=rng.random() < 0.2
            )
            request = Request(
                self.next_arrival,
                ids,
                params,
                priority=rng.randint(0, 2),
                arrival_time=self.now,
                eos_ids=STOP_IDS,
                salt=rng.randint(0, 1),
            )
            self.next_arrival += 1
            try:
                scheduler.add(request)
            except ValueError:
                config = scheduler.config
                limit = min(self.blocks.num_slots, config.max_context or self.blocks.num_slots)
                if not config.chunked_prefill:
                    limit = min(limit, config.max_num_batched_tokens + 1)
                assert len(ids) >= limit, f"{request!r} was refused without need"
                self.result.ended["refused"] += 1
                continue
            context = ids
            if rng.random() < self.replace_rate:
                context = self.to_replace[request.id] = ids[:: rng.randint(1, 3)]
            self.expected[request.id] = expected_output(
                context,
                longest,
                params.min_tokens,
                request.stop_ids,
                salt=request.salt,
                retention=self.retention,
            )

    def inject_faults(self) -> None:
        """Sometimes cancel, take memory away, give it back, or abort everything."""
        rng, scheduler = self.rng, self.scheduler
        dice = rng.random()
        if dice < 0.02 and scheduler.requests:
            # Unknown and ended ids must be harmless.
            living = scheduler.running if rng.random() < 0.5 else list(scheduler.requests.values())
            chosen: str | int = rng.randrange(self.next_arrival)
            if living and rng.random() < 0.8:
                chosen = rng.choice(living).id
            request = scheduler.requests.get(chosen)
            assert scheduler.cancel(chosen, self.now) or request is None or request.in_flight
            if request is not None and request.is_finished:
                self.take_leave(request)
        elif dice < 0.03:
            self.result.memory_faults += self.blocks.withhold(rng.randint(1, self.blocks.num_blocks)) > 0
        elif dice < 0.06:
            self.blocks.restore()
        elif dice < 0.06002:
            self.result.aborts += 1
            self.pending.clear()
            for request in scheduler.abort(self.now):
                self.take_leave(request)
            check(scheduler)

    def draft(self) -> None:
        """Propose continuations, right or wrong, for requests that decode."""
        rng = self.rng
        if not self.draft_rate:
            return
        for request in self.scheduler.decoding:
            if not request.in_flight and rng.random() < 0.7:
                done = request.num_output_tokens
                drafts = self.expected[request.id][done : done + rng.randint(0, 5)]
                request.set_drafts([t if rng.random() < self.draft_rate else t ^ 1 for t in drafts])

    def inspect(self, batch: Batch) -> None:
        """What must hold of every batch as decided."""
        config = self.scheduler.config
        requests = {id(entry.request) for entry in batch.entries}
        assert len(requests) == len(batch.entries) == batch.num_seqs, "a request is in a batch twice"
        assert batch.num_tokens <= config.max_num_batched_tokens, f"{batch!r} exceeds the token budget"
        assert self.scheduler.num_running <= config.max_num_seqs, "too many requests are running"
        assert len({host for _, host in batch.swap_out}) == len(batch.swap_out), (
            f"{batch!r} copies over its copies"
        )
        flying = {id(entry.request) for other in self.pending for entry in other.entries}
        assert not requests & flying, f"{batch!r} contains requests in flight"
        if not self.scheduler.policy.mixes:
            assert not (batch.num_decodes and batch.num_prefills), f"{batch!r} is mixed"
        assert batch.num_tokens == sum(entry.num_tokens for entry in batch.entries)
        assert batch.total_keys == sum(entry.num_keys for entry in batch.entries)
        self.result.digest = zlib.crc32(
            repr((batch, batch.query_keys, batch.num_samples)).encode(), self.result.digest
        )
        if batch.preempted:
            # Where ranks change, those who run may all make room for one who waits.
            changing = self.scheduler.policy.period > 0
            living = self.scheduler.requests.values() if changing else self.scheduler.running
            first = min(request.order for request in living)
            assert all(request.order > first for request in batch.preempted), (
                "a request made room for later ones"
            )
        assert self.retention is not None or not batch.finished, "everything can be computed again"
        for request in batch.finished:
            self.take_leave(request)
        self.result.compactions += len(batch.compactions)

    def complete(self, batch: Batch) -> None:
        """Execute the oldest batch in flight and take in its results."""
        scheduler, model = self.scheduler, self.model
        beside = self.blocks.swapping.overlapped
        if not beside:
            model.copy_blocks(batch)
        sampled: list[list[int]] = []
        for entry in batch.entries:
            yielded = model.execute(entry)
            context = self.to_replace.get(entry.request.id)
            if yielded and context is not None and not entry.request.context_replaced:
                scheduler.replace_context(entry.request, context)
                self.result.contexts_replaced += 1
                yielded = []
            sampled.append(yielded)
        if beside:  # as late as can be: nothing of the step may depend on it
            model.copy_blocks(batch)
        self.now += 0.01 * (1 + batch.num_tokens / 64) * self.rng.uniform(0.5, 1.5)
        for request in scheduler.update(batch, sampled, self.now):
            self.take_leave(request)
        self.result.tokens_computed += batch.num_tokens

    def take_leave(self, request: Request) -> None:
        """Check a request that has ended: once, for a true reason, with the output it would have had
        alone."""
        result, config = self.result, self.scheduler.config
        reason, output = request.finish_reason, request.output_ids
        assert reason is not None, f"{request!r} ended without a reason"
        expected = self.expected.pop(request.id)
        assert output == expected[: len(output)], f"{request!r} gave {output}, alone it gives {expected}"
        assert len(output) == request.num_output_tokens == request.num_tokens - request.num_context_tokens
        if reason == "capacity":
            needed = self.scheduler.most_slots(request.num_tokens, request.num_context_tokens)
            if self.retention is None:
                assert request.num_tokens == self.blocks.num_slots + 1, f"{request!r} ended early for memory"
            else:
                assert needed > self.blocks.num_slots, f"{request!r} ended early for want of memory"
        elif (
            reason == "length" and config.max_context is not None and request.num_tokens == config.max_context
        ):
            pass
        elif reason in ("stop", "length"):
            assert output == expected, f"{request!r} ended early: {output} instead of {expected}"
            assert (reason == "stop") == (request.stop_token is not None), f"{request!r}: {reason}"
        else:
            assert self.faults, f"{request!r} was {reason} by nobody"
        if output:
            times = [request.arrival_time, request.first_scheduled_time, request.first_token_time]
            times += [request.last_token_time, request.finished_time]
            assert times == sorted(t for t in times if t is not None), f"{request!r} has times {times}"
        result.ended[reason] += 1
        result.tokens_generated += len(output)
        result.drafted += request.num_drafted
        result.accepted += request.num_accepted
        result.digest = zlib.crc32(repr((request.id, reason, output)).encode(), result.digest)

    def idle(self) -> None:
        """Nothing could be scheduled: right only without requests, without memory, or for one step when a
        swapped request came back without copies (its blocks were all still there; it runs from the next)."""
        if self.scheduler.has_work:
            self.empty_steps += 1
            if self.empty_steps == 1 and self.scheduler.num_running and not self.blocks.num_withheld:
                return
            assert self.blocks.num_withheld, f"nothing runs, but {self.scheduler.num_waiting} requests wait"
            self.blocks.restore()
        elif self.next_arrival < len(self.arrivals):
            self.now = max(self.now, self.arrivals[self.next_arrival])

    def watch_first(self) -> None:
        """The first request in order must make progress."""
        scheduler = self.scheduler
        if not scheduler.requests:
            return
        first = min(scheduler.requests.values(), key=lambda request: request.order)
        mark = (first.id, first.num_computed, first.num_output_tokens, first.context_replaced)
        if mark != self.first or self.blocks.num_withheld:
            self.first, self.first_since = mark, scheduler.num_steps
        waited = scheduler.num_steps - self.first_since
        self.result.longest_wait = max(self.result.longest_wait, waited)
        assert waited <= PATIENCE_STEPS, f"{first!r} has starved for {waited} steps"


def random_retention(rng: Random) -> SimulatedRetention | None:
    """Sometimes one that keeps few entries."""
    if rng.random() < 0.7:
        return None
    return SimulatedRetention(rng.randint(1, 3), rng.randint(1, 20), rng.choice([1, 4, 16]))


def random_scheduler(
    rng: Random, retention: SimulatedRetention | None = None, extras: Random | None = None
) -> Scheduler:
    """A scheduler with random settings, small enough that memory is often short."""
    block_size = rng.choice([1, 2, 4, 8, 16])
    blocks = BlockManager(
        max(2, rng.choice([rng.randint(48, 96), rng.randint(96, 480)]) // block_size),
        block_size,
        num_host_blocks=rng.choice([0, 4, 40, 400]),
        prefix_caching=rng.random() < 0.7 and retention is None,
    )
    seats = rng.choice([1, 2, 4, 8, 16])
    chunked = rng.random() < 0.7
    config = SchedulerConfig(
        max_num_seqs=seats,
        max_num_batched_tokens=seats + rng.choice([0, 8, 32, 128] if chunked else [40, 128]),
        max_context=rng.choice([None, None, 60]),
        chunked_prefill=chunked,
        preemption="swap" if blocks.num_host_blocks and rng.random() < 0.7 else "recompute",
        watermark=rng.choice([0.0, 0.01, 0.1]),
        pipeline_depth=rng.choice([1, 1, 1, 2, 3]),
    )
    policy: Mixed = POLICIES[rng.choice(sorted(POLICIES))](patience=rng.choice([inf, 1.0]))
    if extras is not None and retention is None and config.pipeline_depth == 1:
        policy = restless(extras) or policy
        blocks = BlockManager(
            blocks.num_blocks,
            block_size,
            num_host_blocks=blocks.num_host_blocks,
            prefix_caching=blocks.prefix_caching,
            swapping=random_swapping(extras),
        )
    return Scheduler(config, blocks, policy, retention)
