"""The scheduler, one feature at a time."""

import pytest

from twofold.engine.blocks import BlockManager
from twofold.engine.integrity import IntegrityError, check
from twofold.engine.policy import Mixed, PrefillFirst
from twofold.engine.request import Request, RequestStatus, SamplingParams
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig


def make(num_blocks=64, block_size=4, *, policy=None, host=0, caching=True, **config):
    config = {"max_num_seqs": 8, "max_num_batched_tokens": 64, "watermark": 0.0} | config
    blocks = BlockManager(num_blocks, block_size, num_host_blocks=host, prefix_caching=caching)
    return Scheduler(SchedulerConfig(**config), blocks, policy)


def add(scheduler, name, prompt, *, max_tokens=4, **options):
    params = SamplingParams(max_tokens=max_tokens)
    request = Request(name, prompt, params, **options)
    scheduler.add(request)
    return request


def step(scheduler, token=1, now=0.0):
    """Schedule, check, and take in `token` wherever a token is due (drafts are refused)."""
    batch = scheduler.schedule(now)
    ended = scheduler.update(batch, [[token] if entry.samples else [] for entry in batch.entries], now)
    check(scheduler)
    return batch, ended


def shares(batch):
    """(request id, tokens) of each entry."""
    return [(entry.request.id, entry.num_tokens) for entry in batch.entries]


# Limits and lengths


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"max_num_batched_tokens": 4}, "below max_num_seqs"),
        ({"max_context": 1}, "max_context"),
        ({"preemption": "swpa"}, "did you mean 'swap'"),
        ({"watermark": 1.0}, "watermark"),
        ({"pipeline_depth": 0}, "pipeline_depth"),
        ({"preemption": "swap"}, "no host blocks"),
    ],
)
def test_wrong_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make(**config)


def test_requests_that_can_never_run_are_refused_at_once():
    scheduler = make(num_blocks=4, block_size=4)
    with pytest.raises(ValueError, match="at least 5 blocks"):
        add(scheduler, "a", 16)
    with pytest.raises(ValueError, match="context ends at 8"):
        add(make(max_context=8), "a", 8)
    with pytest.raises(ValueError, match="chunked_prefill"):
        add(make(chunked_prefill=False), "a", 65)
    add(scheduler, "a", 15)
    with pytest.raises(ValueError, match="in use"):
        add(scheduler, "a", 1)
    assert list(scheduler.requests) == ["a"]


def test_a_request_from_prompt_to_end_with_its_times():
    scheduler = make()
    request = add(scheduler, "a", [1, 2, 3, 4, 5], max_tokens=3, arrival_time=1.0, record_times=True)
    batch, _ = step(scheduler, now=2.0)
    assert (batch.num_prefills, batch.num_prefill_tokens, batch.num_samples) == (1, 5, 1)
    assert (batch.total_keys, batch.query_keys) == (5, 15)
    assert request.output_ids == [1]
    batch, _ = step(scheduler, token=9, now=3.0)
    assert (batch.num_decodes, batch.num_tokens, batch.total_keys, batch.query_keys) == (1, 1, 6, 6)
    assert batch.entries[0].tokens() == [1]
    assert (batch.entries[0].start, batch.entries[0].slot) == (5, 5)
    _, ended = step(scheduler, now=4.0)
    assert ended == [request]
    assert request.finish_reason == "length"
    assert request.output_ids == [1, 9, 1]
    assert request.token_times == [2.0, 3.0, 4.0]
    assert request.first_scheduled_time == request.first_token_time == 2.0
    assert request.last_token_time == request.finished_time == 4.0
    assert not scheduler.has_work
    assert scheduler.blocks.num_used == 0


def test_lengths_alone_are_enough():
    scheduler = make(caching=True)
    requests = [add(scheduler, i, 10 + i, max_tokens=5) for i in range(3)]
    while scheduler.has_work:
        batch = scheduler.schedule(0.0)
        scheduler.update_counts(batch, None, 0.0)
        check(scheduler)
    assert [r.num_output_tokens for r in requests] == [5, 5, 5]
    assert scheduler.blocks.num_cached == 0


def test_stop_tokens_and_min_tokens():
    scheduler = make()
    params = SamplingParams(max_tokens=9, min_tokens=2, stop_token_ids=frozenset({7}))
    request = Request("a", [1], params)
    scheduler.add(request)
    step(scheduler, token=7)
    assert not request.is_finished
    step(scheduler, token=7)
    assert request.finish_reason == "stop"
    assert request.stop_token == 7
    assert request.output_ids == [7, 7]


def test_the_context_limit_ends_a_request():
    scheduler = make(max_context=6)
    request = add(scheduler, "a", 4, max_tokens=50)
    while scheduler.has_work:
        scheduler.update_counts(scheduler.schedule(0.0), None, 0.0)
    assert (request.finish_reason, request.num_tokens) == ("length", 6)


def test_the_end_of_memory_ends_a_request_that_is_alone():
    scheduler = make(num_blocks=2, block_size=4)
    request = add(scheduler, "a", [1, 2, 3], max_tokens=50)
    while scheduler.has_work:
        step(scheduler)
    assert (request.finish_reason, request.num_tokens) == ("capacity", 9)


# Batching


def test_decodes_and_prompts_mix_and_prompts_are_cut_to_the_budget():
    scheduler = make(max_num_batched_tokens=16)
    add(scheduler, "a", 6, max_tokens=9)
    scheduler.update_counts(scheduler.schedule(0.0), None, 0.0)
    b = add(scheduler, "b", 20)
    batch = scheduler.schedule(0.0)
    assert shares(batch) == [("a", 1), ("b", 15)]
    assert [entry.samples for entry in batch.entries] == [True, False]
    scheduler.update_counts(batch, [1, 0], 0.0)
    assert b.is_prefilling
    batch = scheduler.schedule(0.0)
    assert shares(batch) == [("a", 1), ("b", 5)]
    assert batch.entries[1].start == 15
    assert batch.query_keys == 8 + (5 * 15 + 15)


def test_whole_prompts_wait_for_room_but_not_for_ever():
    scheduler = make(max_num_batched_tokens=16, chunked_prefill=False)
    add(scheduler, "a", 6, max_tokens=50)
    scheduler.update_counts(scheduler.schedule(0.0), None, 0.0)
    add(scheduler, "b", 16)
    first, second = [], []
    for seen in (first, second):
        batch = scheduler.schedule(0.0)
        seen += shares(batch)
        scheduler.update_counts(batch, None, 0.0)
    assert first == [("a", 1)]
    assert second == [("b", 16)]


def test_prefill_first_never_mixes():
    scheduler = make(policy=PrefillFirst())
    add(scheduler, "a", 6)
    scheduler.update_counts(scheduler.schedule(0.0), None, 0.0)
    add(scheduler, "b", 5)
    add(scheduler, "c", 5)
    batch = scheduler.schedule(0.0)
    assert shares(batch) == [("b", 5), ("c", 5)]
    scheduler.update_counts(batch, None, 0.0)
    assert shares(scheduler.schedule(0.0)) == [("a", 1), ("b", 1), ("c", 1)]


def test_seats_are_limited():
    scheduler = make(max_num_seqs=2)
    for name in "abc":
        add(scheduler, name, 3)
    assert shares(scheduler.schedule(0.0)) == [("a", 3), ("b", 3)]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)


def test_priorities_then_first_come_first_served():
    scheduler = make(max_num_seqs=1)
    for name, priority in [("a", 1), ("b", 0), ("c", 1), ("d", 0)]:
        add(scheduler, name, 3, priority=priority, max_tokens=1)
    order = []
    while scheduler.has_work:
        batch = scheduler.schedule(0.0)
        order += [entry.request.id for entry in batch.entries]
        scheduler.update_counts(batch, None, 0.0)
    assert order == ["b", "d", "a", "c"]


def test_patience_bounds_the_wait_of_low_priorities():
    scheduler = make(max_num_seqs=1, policy=Mixed(patience=10.0))
    add(scheduler, "patient", 3, priority=1, arrival_time=0.0)
    add(scheduler, "early", 3, priority=0, arrival_time=9.0)
    add(scheduler, "late", 3, priority=0, arrival_time=11.0)
    ranks = {name: request.order[0] for name, request in scheduler.requests.items()}
    assert ranks["early"] < ranks["patient"] < ranks["late"]
    with pytest.raises(ValueError, match="patience"):
        Mixed(patience=0)


# Prefix caching


def test_a_second_request_computes_only_what_is_new():
    scheduler = make()
    prompt = list(range(10))
    add(scheduler, "a", prompt, max_tokens=1)
    step(scheduler)
    b = add(scheduler, "b", [*prompt, 99])
    batch, _ = step(scheduler)
    assert shares(batch) == [("b", 3)]
    assert b.num_cached_tokens == 8
    assert batch.entries[0].slot == 8


def test_outputs_are_cached_too():
    scheduler = make()
    a = add(scheduler, "a", [1, 2, 3], max_tokens=6)
    while scheduler.has_work:
        step(scheduler, token=5)
    b = add(scheduler, "b", [1, 2, 3, *a.output_ids, 6])
    step(scheduler)
    assert b.num_cached_tokens == 8


# Preemption


def crowded(preemption, host=0):
    """Two requests in a cache that holds them only at first."""
    scheduler = make(num_blocks=4, block_size=4, preemption=preemption, host=host, caching=False)
    first = add(scheduler, "first", [1] * 7, max_tokens=6)
    second = add(scheduler, "second", [2] * 7, max_tokens=6)
    step(scheduler)
    step(scheduler)
    return scheduler, first, second


def test_preemption_by_recompute_takes_from_the_last():
    scheduler, first, second = crowded("recompute")
    batch, _ = step(scheduler)
    assert shares(batch) == [("first", 1)]
    assert batch.preempted == [second]
    assert second.status is RequestStatus.WAITING
    assert (second.num_computed, second.block_table, second.num_output_tokens) == (0, [], 2)
    while not first.is_finished:
        assert shares(step(scheduler)[0]) == [("first", 1)]
    batch, _ = step(scheduler)
    assert shares(batch) == [("second", 9)]
    while scheduler.has_work:
        step(scheduler)
    assert (first.num_output_tokens, second.num_output_tokens) == (6, 6)
    assert second.num_preemptions == 1


def test_preemption_by_swap_keeps_what_was_computed():
    scheduler, first, second = crowded("swap", host=4)
    table = second.block_table.copy()
    batch, _ = step(scheduler)
    assert [device for device, _ in batch.swap_out] == table
    assert second.status is RequestStatus.SWAPPED
    while not first.is_finished:
        step(scheduler)
    batch = scheduler.schedule(0.0)
    assert [host for _, host in batch.swap_in] == [0, 1]
    scheduler.update(batch, [[1] for _ in batch.entries], 0.0)
    check(scheduler)
    seen = 0
    while scheduler.has_work:
        batch, _ = step(scheduler)
        assert batch.num_prefills == 0
        seen += batch.num_tokens
    assert second.num_output_tokens == 6
    assert scheduler.blocks.num_free_host == 4


def test_without_room_on_the_host_it_recomputes():
    scheduler, _, second = crowded("swap", host=1)
    step(scheduler)
    assert second.status is RequestStatus.WAITING


def test_an_earlier_request_is_never_preempted_for_a_later_one():
    scheduler = make(num_blocks=4, block_size=4, caching=False)
    add(scheduler, "low", [1] * 7, priority=1, max_tokens=9)
    step(scheduler)
    add(scheduler, "high", [2] * 7, priority=0, max_tokens=9)
    while scheduler.has_work:
        batch, _ = step(scheduler)
        assert "high" not in [request.id for request in batch.preempted]


def test_the_watermark_is_left_free_but_not_for_the_only_request():
    scheduler = make(num_blocks=10, block_size=4, watermark=0.3, caching=False)
    add(scheduler, "a", 36)
    assert shares(scheduler.schedule(0.0)) == [("a", 36)]
    scheduler = make(num_blocks=10, block_size=4, watermark=0.3, caching=False)
    add(scheduler, "a", 16)
    add(scheduler, "b", 16)
    assert shares(scheduler.schedule(0.0)) == [("a", 16)]


def test_withheld_memory_stalls_and_then_goes_on():
    scheduler = make(num_blocks=4, block_size=4, caching=False)
    request = add(scheduler, "a", [1] * 4, max_tokens=3)
    step(scheduler)
    scheduler.blocks.withhold(3)
    batch, _ = step(scheduler)
    assert batch.is_empty
    assert scheduler.num_stalled == 1
    scheduler.blocks.restore()
    while scheduler.has_work:
        step(scheduler)
    assert request.num_output_tokens == 3


# Ending from outside


def test_cancel_wherever_it_is():
    scheduler = make(max_num_seqs=1)
    running, waiting = add(scheduler, "r", [1, 2]), add(scheduler, "w", [1, 2])
    step(scheduler)
    for request in (waiting, running):
        assert scheduler.cancel(request.id, 5.0)
        assert not scheduler.cancel(request.id, 5.0)
        assert (request.finish_reason, request.finished_time) == ("cancelled", 5.0)
        check(scheduler)
    assert scheduler.schedule(0.0).is_empty
    assert scheduler.num_waiting == 0


def test_cancel_in_flight_waits_for_the_batch():
    scheduler = make()
    request = add(scheduler, "a", [1, 2])
    batch = scheduler.schedule(0.0)
    assert scheduler.cancel("a", 0.0)
    assert not scheduler.cancel("a", 0.0)
    assert not request.is_finished
    assert scheduler.blocks.num_used == 1
    assert scheduler.update(batch, [[3]], 1.0) == [request]
    assert (request.finish_reason, request.output_ids) == ("cancelled", [])
    check(scheduler)


def test_cancel_a_swapped_request_frees_the_host():
    scheduler, _, second = crowded("swap", host=4)
    step(scheduler)
    scheduler.cancel("second", 0.0)
    assert second.host_table == []
    assert scheduler.blocks.num_free_host == 4
    check(scheduler)


def test_abort_ends_everything_and_voids_batches_in_flight():
    scheduler = make(max_num_seqs=1)
    requests = [add(scheduler, name, [1, 2]) for name in "ab"]
    batch = scheduler.schedule(0.0)
    assert scheduler.abort(1.0) == requests
    assert {request.finish_reason for request in requests} == {"aborted"}
    check(scheduler)
    with pytest.raises(AssertionError, match="not in flight"):
        scheduler.update(batch, [[1]], 1.0)
    add(scheduler, "a", [1, 2])
    assert shares(step(scheduler)[0]) == [("a", 2)]


# Speculation


def test_accepted_drafts_advance_and_rejected_ones_are_rolled_back():
    scheduler = make(block_size=2)
    request = add(scheduler, "a", [1, 2, 3], max_tokens=20)
    step(scheduler)
    request.set_drafts([4, 5, 6, 7])
    batch = scheduler.schedule(0.0)
    assert shares(batch) == [("a", 5)]
    assert batch.entries[0].tokens() == [1, 4, 5, 6, 7]
    assert len(request.block_table) == 4
    scheduler.update(batch, [[4, 5, 9]], 0.0)
    assert request.output_ids == [1, 4, 5, 9]
    assert (request.num_computed, request.num_slots, request.num_tokens) == (6, 6, 7)
    assert len(request.block_table) == 3
    assert (request.num_drafted, request.num_accepted, request.num_drafts) == (4, 2, 0)
    check(scheduler)


def test_drafts_are_cut_to_the_limits():
    scheduler = make(max_num_batched_tokens=10)
    a, b = add(scheduler, "a", [1], max_tokens=4), add(scheduler, "b", [1], max_tokens=40)
    step(scheduler)
    a.set_drafts([5] * 9)
    b.set_drafts([5] * 9)
    batch = scheduler.schedule(0.0)
    # a may generate three more tokens; one token of the budget must be left for each of the others.
    assert shares(batch) == [("a", 3), ("b", 7)]


def test_drafts_never_take_memory_from_others():
    scheduler = make(num_blocks=3, block_size=4, caching=False)
    a, b = add(scheduler, "a", [1] * 3, max_tokens=9), add(scheduler, "b", [1] * 4, max_tokens=4)
    step(scheduler)
    a.set_drafts([5] * 8)
    batch, _ = step(scheduler)
    assert shares(batch) == [("a", 1), ("b", 1)]
    assert not b.num_preemptions


def test_a_stop_token_among_accepted_drafts_ends_the_output():
    scheduler = make()
    request = Request("a", [1], SamplingParams(max_tokens=20, stop_token_ids=frozenset({9})))
    scheduler.add(request)
    step(scheduler)
    request.set_drafts([9, 8])
    batch = scheduler.schedule(0.0)
    scheduler.update(batch, [[9, 8, 7]], 0.0)
    assert request.output_ids == [1, 9]
    assert request.finish_reason == "stop"
    check(scheduler)


def test_counted_drafts():
    scheduler = make()
    request = add(scheduler, "a", 3, max_tokens=5)
    scheduler.update_counts(scheduler.schedule(0.0), None, 0.0)
    request.set_drafts(3)
    batch = scheduler.schedule(0.0)
    assert shares(batch) == [("a", 4)]
    scheduler.update_counts(batch, [3], 0.0)
    assert (request.num_output_tokens, request.num_computed) == (4, 6)


# Techniques that change the context


def test_the_context_can_be_replaced_while_its_prompt_is_in_flight():
    scheduler = make(block_size=2)
    request = add(scheduler, "a", list(range(9)))
    batch = scheduler.schedule(0.0)
    scheduler.replace_context(request, [0, 4, 8])
    assert scheduler.update(batch, [[]], 0.0) == []
    check(scheduler)
    assert scheduler.blocks.num_used == 0
    batch, _ = step(scheduler)
    assert batch.entries[0].num_tokens == 3
    assert request.output_ids == [1]
    # What was computed for the whole prompt was dropped unregistered.
    assert scheduler.blocks.match_prefix(Request("b", list(range(9)))) == []


def test_the_context_can_be_replaced_while_waiting():
    scheduler = make(max_num_seqs=1)
    add(scheduler, "a", 4)
    request = add(scheduler, "b", 40)
    scheduler.schedule(0.0)
    scheduler.replace_context(request, 5)
    check(scheduler)
    assert request.num_tokens == 5
    assert request.context_replaced


# Pipelining


def test_batches_in_flight_never_overlap():
    scheduler = make(pipeline_depth=2)
    for i in range(4):
        add(scheduler, i, 3, max_tokens=50)
    batch = scheduler.schedule(0.0)
    assert scheduler.schedule(0.0).is_empty
    scheduler.update_counts(batch, None, 0.0)
    a = scheduler.schedule(0.0)
    b = scheduler.schedule(0.0)
    assert scheduler.num_in_flight == 2
    assert shares(a) == [(0, 1), (1, 1)]
    assert shares(b) == [(2, 1), (3, 1)]
    scheduler.update_counts(a, None, 0.0)
    check(scheduler)
    assert shares(scheduler.schedule(0.0)) == [(0, 1), (1, 1)]


def test_every_request_gets_its_turn_even_with_one_batch_in_flight():
    scheduler = make(pipeline_depth=2)
    for i in range(4):
        add(scheduler, i, 3, max_tokens=50)
    scheduler.update_counts(scheduler.schedule(0.0), None, 0.0)
    seen = []
    for _ in range(2):
        batch = scheduler.schedule(0.0)
        seen += [entry.request.id for entry in batch.entries]
        scheduler.update_counts(batch, None, 0.0)
    assert sorted(seen) == [0, 1, 2, 3]


# Policies of techniques


class OneChunk(Mixed):
    """At most one chunk per batch, cut so that the batch has `size` tokens with its decodes."""

    name = "one-chunk"
    needs_chunking = True

    def __init__(self, size):
        super().__init__()
        self.size = size

    def chunk(self, request, remaining, batch, tokens_left):
        return 0 if batch.num_prefills else min(remaining, self.size - batch.num_decode_tokens)


def test_the_seam_carries_a_fixed_batch_of_one_chunk_and_decodes():
    scheduler = make(policy=OneChunk(8))
    for name, length in [("a", 3), ("b", 20), ("c", 9)]:
        add(scheduler, name, length, max_tokens=50)
    seen = []
    for _ in range(6):
        batch = scheduler.schedule(0.0)
        seen.append(shares(batch))
        scheduler.update_counts(batch, [int(entry.samples) for entry in batch.entries], 0.0)
    assert seen[:4] == [
        [("a", 3)],
        [("a", 1), ("b", 7)],
        [("a", 1), ("b", 7)],
        [("a", 1), ("b", 6)],
    ]
    assert seen[4] == [("a", 1), ("b", 1), ("c", 6)]
    with pytest.raises(ValueError, match="chunked_prefill"):
        make(policy=OneChunk(8), chunked_prefill=False)


def test_a_policy_must_rank():
    class Lost(Mixed):
        def rank(self, request):
            return float("nan")

    with pytest.raises(ValueError, match="nan"):
        add(make(policy=Lost()), "a", 3)


def test_the_integrity_check_notices_a_lost_block():
    scheduler = make()
    add(scheduler, "a", 3)
    batch = scheduler.schedule(0.0)
    batch.entries[0].request.block_table.pop()
    with pytest.raises(IntegrityError, match="lost"):
        check(scheduler)
