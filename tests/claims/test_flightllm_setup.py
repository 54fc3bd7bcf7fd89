"""FlightLLM's comparison: what a request takes."""

from __future__ import annotations

import pytest

from twofold.claims.setups import flightllm as setup
from twofold.devices.machines.flightllm import FlightLlm
from twofold.devices.machines.flightllm_vhk158 import FlightLlmVhk158


def test_the_decode_rate_leaves_the_prompt_out() -> None:
    """A longer prompt delays the first token, and slows the others by its entries alone."""
    machine = FlightLlm()
    short, long = (setup.generate(machine, "llama-2-7b", setup.OURS, prompt, 32) for prompt in (128, 512))
    assert long.first > 3 * short.first
    assert short.decode_rate == pytest.approx(long.decode_rate, rel=0.1)
    assert long.joules > short.joules


def test_the_headline_follows_the_machine() -> None:
    """The larger board has its own; both draw less than the V100S."""
    assert setup.headline(FlightLlm()) > 1
    assert setup.headline(FlightLlmVhk158()) > 1
