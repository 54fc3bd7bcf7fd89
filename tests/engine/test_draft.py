"""Drafts that are only counted: how many, when, and at most how many at once. Drafts from text: how long."""

from __future__ import annotations

import pytest

from twofold.engine.draft import ModelledDrafter, TextDrafter
from twofold.engine.request import Request


def played(drafter: ModelledDrafter, requests: int, turns: int) -> list[list[int]]:
    """Guesses by turn and request; all of them are verified."""
    everyone = [Request(i, 8) for i in range(requests)]
    found = []
    for _ in range(turns):
        counts = drafter.propose(everyone, 100)
        for request, count in zip(everyone, counts, strict=True):
            drafter.judge(request, count)
        found.append(counts)
    return found


def test_means_are_those_that_were_given() -> None:
    drafter = ModelledDrafter(0.25, 6.5, 2.5, most=10)
    counts = played(drafter, 8, 400)
    drafts = [c for turn in counts for c in turn if c]
    assert len(drafts) == pytest.approx(0.25 * 8 * 400, rel=0.02)
    assert sum(drafts) / len(drafts) == pytest.approx(6.5, rel=0.02)
    assert drafter.counters["accepted"] / len(drafts) == pytest.approx(2.5, rel=0.02)


def test_requests_do_not_draft_in_step() -> None:
    """Were they to, steps would be either all drafts or none, which cost otherwise."""
    turns = played(ModelledDrafter(0.25, 4, 1, most=10), 16, 80)
    drafting = [sum(count > 0 for count in turn) for turn in turns]
    assert min(drafting) >= 3
    assert max(drafting) <= 5


def test_a_request_never_has_more_guesses_than_the_technique_makes() -> None:
    assert max(max(turn) for turn in played(ModelledDrafter(0.5, 9, 1, most=4), 3, 50)) == 4


@pytest.mark.parametrize("wrong", [(1.5, 1, 1), (0.5, -1, 0), (0.5, 2, 3)])
def test_behaviour_that_cannot_be_is_refused(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="drafting behaviour needs"):
        ModelledDrafter(*wrong, most=4)


class Counting(TextDrafter):
    """Guesses as many tokens as it may."""

    def guess(self, request: Request, limit: int) -> list[int]:
        return list(range(limit))


def test_a_request_gets_shorter_drafts_while_they_are_wrong_and_longer_ones_while_they_are_right() -> None:
    drafter, request, other = Counting(most=4), Request("a", 8), Request("b", 8)
    lengths = []
    for right in (False, False, False, False, False, True, True, True):
        drafted = len(drafter.propose([request], 100)[0])
        drafter.observe(request, drafted, drafted if right else drafted - 1)
        lengths.append(drafted)
    assert lengths == [4, 3, 2, 1, 1, 1, 3, 4]
    assert [len(found) for found in drafter.propose([request, other], 100)] == [4, 4]
    assert [len(found) for found in drafter.propose([request], 2)] == [2]
    drafter.observe(request, 4, 0)
    drafter.forget(request)
    assert [len(found) for found in drafter.propose([request], 100)] == [4]
