"""SpAtten's comparison: what counts as attention, and as a host's time."""

from __future__ import annotations

import pytest

from twofold.claims.setups import spatten as setup
from twofold.claims.setups.pim_gpt import EAGER
from twofold.devices.machines.spatten import EIGHTH, Spatten

SMALL = "gpt2-small"


def test_the_prompt_does_not_count() -> None:
    """Twice the tokens take twice the time of attention, up to the few entries more."""
    few, more = (
        setup.attention(Spatten(), SMALL, "fp16", tokens=n, techniques=["spatten"]).seconds for n in (4, 8)
    )
    assert more == pytest.approx(2 * few, rel=0.01)


def test_pruning_and_size_are_what_wins() -> None:
    """Without the technique the same machine is slower; an eighth of it is slower, and draws less."""
    pruned = setup.attention(Spatten(), SMALL, "fp16", tokens=2, techniques=["spatten"])
    whole = setup.attention(Spatten(), SMALL, "fp16", tokens=2)
    eighth = setup.attention(Spatten(EIGHTH), SMALL, "fp16", tokens=2, techniques=["spatten"])
    assert whole.seconds > 2 * pruned.seconds
    assert eighth.seconds > 2 * pruned.seconds
    assert eighth.joules < pruned.joules


def test_an_eager_host_is_waited_for() -> None:
    """On a GPU the slower of host and device counts, on a CPU both; the longer time draws idle power."""
    gpu, cpu = "titan-xp", "xeon-e5-2640-v4"
    host = 32 * 12 * EAGER.seconds_per_layer / 2
    assert setup._eager(gpu, SMALL).seconds == pytest.approx(host)
    assert setup._eager(cpu, SMALL).seconds == pytest.approx(setup._theirs(cpu, SMALL).seconds + host)
    assert setup._eager(gpu, SMALL).joules > setup._theirs(gpu, SMALL).joules


def test_the_headline_follows_the_machine() -> None:
    """An eighth of it wins by less."""
    assert setup.headline(Spatten()) > 2 * setup.headline(Spatten(EIGHTH)) > 0
