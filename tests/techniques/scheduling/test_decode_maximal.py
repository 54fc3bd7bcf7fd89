"""Batches of SARATHI's shape."""

import pytest

from twofold.engine.blocks import BlockManager
from twofold.engine.request import Request, SamplingParams
from twofold.engine.scheduler import Scheduler
from twofold.engine.scheduler_config import SchedulerConfig
from twofold.techniques.scheduling.decode_maximal import DecodeMaximal


def play(policy, lengths, *, budget=1024, seats=64, max_tokens=20):
    """All batches of prompts of `lengths`, until the last has ended."""
    config = SchedulerConfig(max_num_seqs=seats, max_num_batched_tokens=budget)
    scheduler = Scheduler(config, BlockManager(4096, 16), policy)
    for name, length in enumerate(lengths):
        scheduler.add(Request(name, length, SamplingParams(max_tokens=max_tokens)))
    batches = []
    while scheduler.has_work:
        batch = scheduler.schedule(0.0)
        scheduler.update_counts(batch, [int(entry.samples) for entry in batch.entries], 0.0)
        batches.append(batch)
    return batches


def test_batches_have_one_chunk_and_the_size_of_a_chunk():
    batches = play(DecodeMaximal(64, 32), [500, 300, 700])
    assert max(batch.num_prefills for batch in batches) == 1
    assert max(batch.num_tokens for batch in batches) == 64
    last_chunks = 0
    for batch in batches:
        chunks = [entry for entry in batch.entries if entry.is_prefill]
        if chunks and not chunks[0].samples:
            assert batch.num_tokens == 64
        last_chunks += bool(chunks and chunks[0].samples)
    assert last_chunks == 3
    assert sum(batch.num_prefill_tokens for batch in batches) == 1500


def test_decodes_are_never_left_out_for_a_prompt():
    decoding = set()
    for batch in play(DecodeMaximal(64, 32), [100, 400, 100]):
        ids = {entry.request.id for entry in batch.entries if not entry.is_prefill}
        assert decoding <= ids
        decoding = {e.request.id for e in batch.entries if e.samples and not e.request.is_finished}


def test_more_decodes_than_a_chunk_do_not_starve_prompts():
    batches = play(DecodeMaximal(8, 4), [3] * 20 + [40], max_tokens=60)
    together = [batch for batch in batches if batch.num_decodes >= 8 and batch.num_prefills]
    assert together
    middle = [b for b in together if not any(e.is_prefill and e.samples for e in b.entries)]
    assert all(batch.num_tokens % 8 == 0 for batch in middle)


def test_a_smaller_budget_is_cut_to_a_tile():
    batches = play(DecodeMaximal(64, 16), [300], budget=40, seats=8)
    assert [batch.num_prefill_tokens for batch in batches[:3]] == [32, 32, 32]


def test_wrong_parameters():
    with pytest.raises(ValueError, match="chunk_size"):
        DecodeMaximal(0)
    with pytest.raises(ValueError, match="the nearest that does is 20"):
        DecodeMaximal(100, 17)
