"""FastSwitch swaps in few copies, beside the computation, and only what is new; answers stay the same."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.test_engine import prompts
from tests.test_invariants import TimedCpu
from tests.tiny import tiny_engine

from twofold.engine.block_groups import BlockGroups
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.cache_memory import runs

TIGHT = {
    "max_num_seqs": 4,
    "max_num_batched_tokens": 64,
    "max_context": 256,
    "cache_blocks": 12,
    "swap_memory": 1 << 22,
    "prefix_caching": False,
}
LONG = SamplingParams(max_tokens=40, ignore_eos=True)


def played(asked: list[list[int]], **params: Any) -> tuple[Engine, list[list[int]]]:
    use = {"name": "fastswitch", "params": {"frequency": 0.2, "group": 4, "pattern": "random", **params}}
    engine = tiny_engine(techniques=[use], engine=TIGHT, device=TimedCpu())
    return engine, [c.token_ids for c in engine.generate(asked, LONG)]


@pytest.mark.parametrize("params", [{}, {"overlapped": False}, {"reuse": False}, {"group": 0}])
def test_answers_do_not_change_however_often_requests_are_swapped(params: dict[str, Any]) -> None:
    asked = prompts(8, seed=3)
    engine, got = played(asked, **params)
    plain = tiny_engine(engine={**TIGHT, "cache_blocks": 200})
    assert got == [c.token_ids for c in plain.generate(asked, LONG)]
    assert engine.scheduler.blocks.num_swapped_out > 8
    engine.check_techniques()


def test_copies_that_are_kept_are_not_made_again() -> None:
    asked = prompts(8, seed=3)
    kept, _ = played(asked)
    dropped, _ = played(asked, reuse=False)
    assert kept.scheduler.num_preempted == dropped.scheduler.num_preempted
    mine, theirs = kept.scheduler.blocks, dropped.scheduler.blocks
    assert mine.num_reused > 0
    assert mine.num_swapped_out + mine.num_reused == theirs.num_swapped_out
    assert mine.num_free_host == mine.num_host_blocks


@pytest.mark.parametrize("params", [{}, {"overlapped": False}])
def test_the_next_turn_finds_its_beginning_in_host_memory(params: dict[str, Any]) -> None:
    """A conversation goes on after others took the device's memory: its blocks come back instead of being
    computed, and its answer is what it would be without them."""
    first, others = prompts(1, seed=5), prompts(6, seed=6)
    use = {"name": "fastswitch", "params": {"group": 4, **params}}
    shared = {**TIGHT, "prefix_caching": True}
    engine = tiny_engine(techniques=[use], engine=shared, device=TimedCpu())
    turn = first[0] + engine.generate(first, LONG)[0].token_ids
    engine.generate(others, LONG)
    blocks = engine.scheduler.blocks
    assert not blocks.num_returned
    again = engine.generate([[*turn, 7, 8, 9]], LONG)[0].token_ids
    size = blocks.block_size
    assert blocks.num_returned >= len(turn) // size - 1
    plain = tiny_engine(engine={**shared, "cache_blocks": 200})
    assert again == plain.generate([[*turn, 7, 8, 9]], LONG)[0].token_ids
    without = tiny_engine(
        techniques=[{**use, "params": {**use["params"], "reuse": False}}], engine=shared, device=TimedCpu()
    )
    without.generate([turn], LONG)
    without.generate(others, LONG)
    without.generate([[*turn, 7, 8, 9]], LONG)
    assert not without.scheduler.blocks.num_returned


def test_groups_make_few_pieces() -> None:
    pieces = []
    for group in (0, 4):
        engine, _ = played(prompts(8, seed=3), group=group)
        copies = engine.device.totals["copy"]
        assert copies.calls > 0
        pieces.append(engine.runner.rank.num_pieces / engine.scheduler.blocks.num_swapped_out)
    assert pieces[1] < pieces[0]


def test_a_run_of_blocks_goes_on_where_it_can() -> None:
    free = BlockGroups(20, 4)
    first = [free.pop()]
    first.append(free.pop(first[-1]))
    second = [free.pop()]
    assert first == [0, 1]
    assert second[0] >= 6  # a group is left to the run before
    while len(free):
        first.append(free.pop(first[-1]))
    assert sorted(first + second) == list(range(20))
    for block in (7, 3, 11):
        free.append(block)
    assert list(free) == [3, 7, 11]
    with pytest.raises(AssertionError, match="free already"):
        free.append(3)


def test_runs() -> None:
    assert list(runs([])) == []
    assert list(runs([(0, 5), (1, 6), (2, 8), (4, 9), (5, 10)])) == [(0, 5, 2), (2, 8, 1), (4, 9, 2)]


def test_wrong_parameters() -> None:
    for params, match in (
        ({"frequency": 0.0}, "above 0"),
        ({"pattern": "none"}, "'markov' or 'random'"),
        ({"group": -1}, "whole number of blocks"),
    ):
        with pytest.raises(ValueError, match=match):
            tiny_engine(techniques=[{"name": "fastswitch", "params": params}])
