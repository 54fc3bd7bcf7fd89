"""Work: what parts take one after the other and side by side, and which of them is waited for."""

from __future__ import annotations

import pytest

from twofold.devices.parts.work import NOTHING, Work

ARRAY, DRAM, LINK = Work.of("array", 2.0, 5.0), Work.of("dram", 3.0, 7.0), Work.of("link", 1.0)


def test_one_after_the_other() -> None:
    """Times and energies add up; the bound is the part with most of the time, not of the longest piece."""
    work = DRAM.then(ARRAY).then(LINK).then(ARRAY)
    assert work.seconds == 8.0
    assert work.joules == {"dram": 7.0, "array": 10.0}
    assert work.bound == "array"
    assert work.total_joules == 17.0
    assert sum(work.path.values()) == work.seconds


def test_side_by_side() -> None:
    """The slowest hides the others, whose energy is spent all the same."""
    work = ARRAY.beside(DRAM, LINK)
    assert (work.seconds, work.bound, work.joules) == (3.0, "dram", {"array": 5.0, "dram": 7.0})
    chain = ARRAY.then(LINK).then(LINK).then(LINK).beside(DRAM)
    assert (chain.seconds, chain.bound) == (5.0, "link")


def test_again_and_nothing() -> None:
    """The same several times; nothing changes nothing, nor does energy alone change what is waited for."""
    assert (DRAM * 3).seconds == 9.0
    assert (DRAM * 3).joules == {"dram": pytest.approx(21.0)}
    assert NOTHING.then(DRAM) == DRAM.then(NOTHING) == DRAM
    assert NOTHING.bound == ""
    assert Work(0.0, {"sram": 1.0}).beside(LINK) == Work(1.0, {"sram": 1.0}, {"link": 1.0})
