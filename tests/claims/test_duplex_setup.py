"""Duplex's setup: a cycle of continuous batching is its steps."""

from __future__ import annotations

import pytest

from twofold.claims.setups.duplex import CASES, Case, headline, serve
from twofold.devices.machines.duplex import Duplex
from twofold.devices.registry import make_device
from twofold.models.build import ModelOptions, build_model
from twofold.models.catalog import get_spec


def test_every_case_fits_its_devices() -> None:
    """Weights and cache of the longest requests, in the memory of the devices that the source has."""
    for case in CASES:
        spec = get_spec(case.model)
        cache = 2 * 2 * spec.num_layers * spec.kv_dim * case.batch * 2 * case.length
        assert 2 * spec.num_parameters() + cache < case.tp * Duplex().memory["device"]


def test_prompts_among_the_steps_cost_time() -> None:
    """Tokens per second stay below those of steps that only decode, and the headline is the same figure."""
    model = build_model(get_spec("gpt2-small"), ModelOptions(precision="bf16"))
    device = make_device("duplex")
    assert isinstance(device, Duplex)
    served = serve(device, model, Case("gpt2-small", 1, 8, 64))
    assert 0.5 * 8 / served.between < served.rate < 8 / served.between
    assert headline(Duplex()) == pytest.approx(headline(Duplex(tp=2)))
