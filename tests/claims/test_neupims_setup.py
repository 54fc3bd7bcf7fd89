"""NeuPIMs' setup: contexts, and that its steps are what the claim compares."""

from __future__ import annotations

from statistics import mean

import pytest

from twofold.claims.setups.neupims import CASES, LONGEST, contexts, headline, step
from twofold.devices.machines.neupims import Neupims


def test_contexts_are_as_published() -> None:
    """Means near those of the published batches, the same every time, none too long."""
    drawn = contexts("ShareGPT", 512)
    assert drawn == contexts("ShareGPT", 512)
    assert mean(drawn) == pytest.approx(300, rel=0.1)
    assert max(drawn) <= LONGEST + 1


def test_steps_and_headline() -> None:
    """Longer contexts take longer and more energy; the headline is tokens over that time."""
    device = Neupims(tp=4)
    short, long = (step(device, CASES[0], contexts(d, 512)) for d in ("Alpaca", "ShareGPT"))
    assert short.seconds <= long.seconds
    assert short.memory_joules < long.memory_joules
    assert headline(Neupims()) == pytest.approx(512 / long.seconds)
