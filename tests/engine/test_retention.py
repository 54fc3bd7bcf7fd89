"""Entries that are dropped: what the scheduler does about it, and that it stays right whatever comes between
the decision and its execution."""

from __future__ import annotations

from typing import Any

import pytest

from twofold.engine.batch import Batch
from twofold.engine.blocks import BlockManager
from twofold.engine.integrity import check
from twofold.engine.request import Request, RequestStatus, SamplingParams
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.engine.simulated_model import SimulatedRetention


def make(
    first: int = 1, last: int = 3, every: int = 2, *, num_blocks: int = 64, host: int = 0, **config: Any
) -> Scheduler:
    limits = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "watermark": 0.0} | config
    blocks = BlockManager(num_blocks, 2, num_host_blocks=host, prefix_caching=False)
    return Scheduler(SchedulerConfig(**limits), blocks, None, SimulatedRetention(first, last, every))


def add(scheduler: Scheduler, name: str, prompt: int, **options: Any) -> Request:
    tokens = options.pop("max_tokens", 9)
    request = Request(name, prompt, SamplingParams(max_tokens=tokens, ignore_eos=True), **options)
    scheduler.add(request)
    return request


def step(scheduler: Scheduler) -> Batch:
    batch = scheduler.schedule(0.0)
    land(scheduler, batch)
    return batch


def land(scheduler: Scheduler, batch: Batch) -> None:
    scheduler.update_counts(batch, None, 0.0)
    check(scheduler)


def take_memory(scheduler: Scheduler) -> None:
    """Nothing is left to grow into."""
    scheduler.blocks.withhold(scheduler.blocks.num_free)


def play(scheduler: Scheduler) -> None:
    for _ in range(500):
        if not scheduler.has_work:
            return
        step(scheduler)
    raise AssertionError("it does not end")


def test_blocks_are_free_at_once_and_entries_move_before_the_next_step() -> None:
    scheduler = make()
    request = add(scheduler, "a", 9)
    batch = step(scheduler)
    table = request.block_table.copy()
    assert not batch.compactions
    assert (request.num_slots, request.num_computed) == (4, 9)
    assert len(request.block_table) == 2
    assert scheduler.blocks.num_used == 2
    batch = scheduler.schedule(0.0)
    (compaction,) = batch.compactions
    assert compaction.table[:2] == table
    assert len(compaction.table) == 5
    assert compaction[1:] == (9, 4, 9, 9)
    assert (batch.entries[0].start, batch.entries[0].slot, batch.total_keys) == (9, 4, 5)
    land(scheduler, batch)
    assert not scheduler.schedule(0.0).compactions, "five entries are not too many yet"


def test_a_request_outgrows_the_cache() -> None:
    scheduler = make(num_blocks=4)
    request = add(scheduler, "a", 6, max_tokens=40)
    play(scheduler)
    assert request.finish_reason == "length"
    assert request.num_tokens == 46


def test_a_prompt_that_exceeds_the_cache_is_computed_in_chunks() -> None:
    scheduler = make(num_blocks=8, max_num_batched_tokens=8)
    request = add(scheduler, "a", 60, max_tokens=3)
    play(scheduler)
    assert request.finish_reason == "length"
    assert request.num_preemptions == 0


def test_more_requests_fit_where_prompts_are_cut() -> None:
    peaks = []
    for retained in (True, False):
        scheduler = make(num_blocks=26, max_num_batched_tokens=8)
        if not retained:
            scheduler = Scheduler(scheduler.config, BlockManager(26, 2, prefix_caching=False))
        requests = [add(scheduler, str(i), 30, max_tokens=20) for i in range(6)]
        most = 0
        while scheduler.has_work:
            step(scheduler)
            most = max(most, scheduler.num_running)
        assert all(r.finish_reason == "length" for r in requests)
        peaks.append(most)
    assert peaks[0] >= 2.5 * peaks[1]


def test_a_request_that_ends_leaves_nothing_to_move() -> None:
    scheduler = make()
    add(scheduler, "a", 9, max_tokens=1)
    other = add(scheduler, "b", 3)
    step(scheduler)
    assert not scheduler.schedule(0.0).compactions
    assert not other.is_finished


def test_a_cancelled_request_leaves_nothing_to_move() -> None:
    scheduler = make()
    add(scheduler, "a", 9)
    add(scheduler, "b", 3)
    step(scheduler)
    scheduler.cancel("a", 0.0)
    check(scheduler)
    assert not scheduler.schedule(0.0).compactions


def test_an_abort_leaves_nothing_to_move() -> None:
    scheduler = make()
    add(scheduler, "a", 9)
    step(scheduler)
    scheduler.abort(0.0)
    check(scheduler)
    add(scheduler, "a", 3)
    assert not scheduler.schedule(0.0).compactions


def test_a_replaced_context_leaves_nothing_to_move() -> None:
    scheduler = make(max_num_batched_tokens=8)
    request = add(scheduler, "a", 20)
    step(scheduler)
    assert request.num_slots == 4
    scheduler.replace_context(request, 5)
    check(scheduler)
    assert not scheduler.schedule(0.0).compactions


def test_a_recomputed_request_moves_nothing_and_cuts_its_prompt_as_before() -> None:
    scheduler = make(max_num_seqs=4, every=6)
    early = add(scheduler, "early", 3, max_tokens=20)
    late = add(scheduler, "late", 5, priority=1, max_tokens=30)
    for _ in range(6):
        step(scheduler)
    assert late.id in scheduler._compactions
    take_memory(scheduler)
    ends = []
    for _ in range(500):
        if not scheduler.has_work:
            break
        batch = step(scheduler)
        if late in batch.preempted:
            assert late.id not in scheduler._compactions
            assert all(c.entries != 10 for c in batch.compactions)
            scheduler.blocks.restore()
        ends += [e.start + e.num_tokens for e in batch.entries if e.request is late]
    assert late.num_preemptions
    assert ends[0] == 5, "the prompt ends a chunk, though more tokens were known"
    assert ends[1] > 8
    assert (early.num_output_tokens, late.num_output_tokens) == (20, 30)


def test_a_swapped_request_is_moved_together_before_it_is_copied_out() -> None:
    scheduler = make(host=20, preemption="swap", every=6)
    add(scheduler, "early", 4, max_tokens=20)
    late = add(scheduler, "late", 10, priority=1, max_tokens=30)
    step(scheduler)
    assert "late" in scheduler._compactions
    take_memory(scheduler)
    batch = step(scheduler)
    assert [c.entries for c in batch.compactions] == [10]
    assert batch.swap_out
    scheduler.blocks.restore()
    assert late.status is RequestStatus.SWAPPED
    assert len(late.host_table) == scheduler.blocks.blocks_for(late.num_slots)
    play(scheduler)
    assert late.num_output_tokens == 30


def test_a_compaction_waits_for_the_next_step_of_a_pipeline() -> None:
    scheduler = make(pipeline_depth=2, max_num_seqs=2)
    add(scheduler, "a", 9)
    first = scheduler.schedule(0.0)
    add(scheduler, "b", 5)
    second = scheduler.schedule(0.0)
    assert not second.compactions
    land(scheduler, first)
    third = scheduler.schedule(0.0)
    assert [c.entries for c in third.compactions] == [9]
    land(scheduler, second)
    assert [c.entries for c in scheduler.schedule(0.0).compactions] == [], "b has 5: not too many yet"


def test_a_step_without_anything_to_do_keeps_compactions_for_later() -> None:
    scheduler = make(pipeline_depth=2, max_num_seqs=1)
    add(scheduler, "a", 9)
    step(scheduler)
    scheduler.requests["a"].in_flight = True
    assert scheduler.schedule(0.0).is_empty
    scheduler.requests["a"].in_flight = False
    check(scheduler)
    assert scheduler.schedule(0.0).compactions


def test_steady_steps_are_off() -> None:
    scheduler = make()
    add(scheduler, "a", 3)
    step(scheduler)
    assert scheduler.steady_steps() == 0


def test_what_could_not_be_computed_again_ends_for_want_of_memory() -> None:
    scheduler = make(1, 9, 2, num_blocks=12)
    early = add(scheduler, "early", 4, max_tokens=60)
    late = add(scheduler, "late", 5, priority=1, max_tokens=60)
    for _ in range(26):
        step(scheduler)
    finished: list[Request] = []
    for _ in range(4):
        take_memory(scheduler)
        finished += step(scheduler).finished
    assert finished == [late]
    assert not early.is_finished
    assert late.finish_reason == "capacity"


def test_blocks_that_may_be_shared_are_refused() -> None:
    with pytest.raises(AssertionError, match="shared"):
        Scheduler(SchedulerConfig(), BlockManager(8, 2), None, SimulatedRetention(1, 3, 2))
