"""Totals: what an engine counts about itself equals what its parts counted."""

from __future__ import annotations

from tests.test_invariants import repetitive, uses
from tests.tiny import tiny_engine

from twofold.engine.request import SamplingParams
from twofold.engine.totals import EngineTotals
from twofold.techniques.decoding.copyspec import CopyDrafter


def test_drafts_are_counted_by_position() -> None:
    totals = EngineTotals()
    totals.add_drafts(3, 1)
    totals.add_drafts(1, 0)
    totals.add_drafts(4, 4)
    assert (totals.drafts, totals.drafted, totals.accepted) == (3, 8, 5)
    assert totals.drafted_by_position == [3, 2, 2, 1]
    assert totals.accepted_by_position == [2, 1, 1, 1]


def test_positions_are_those_that_the_drafter_saw() -> None:
    engine = tiny_engine(techniques=uses("copyspec"))
    engine.generate(repetitive(4), SamplingParams(max_tokens=60, ignore_eos=True))
    drafter = engine.drafter
    assert isinstance(drafter, CopyDrafter)
    seen = len(engine.totals.drafted_by_position)
    assert 0 < engine.totals.accepted == sum(engine.totals.accepted_by_position)
    assert engine.totals.drafted == sum(engine.totals.drafted_by_position)
    assert engine.totals.drafted_by_position == drafter.tried[:seen]
    assert not any(drafter.tried[seen:])
    assert engine.totals.accepted_by_position == drafter.right[:seen]
