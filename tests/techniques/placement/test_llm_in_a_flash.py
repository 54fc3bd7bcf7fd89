"""Neurons on disk behind a window: which are read, what they compute, and what is held in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import tiny_engine

from twofold.engine.request import SamplingParams
from twofold.techniques.placement.flash_mlp import Expected, FlashMLP
from twofold.techniques.placement.llm_in_a_flash import LlmInAFlash
from twofold.techniques.placement.neuron_store import NeuronStore

PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)
PROMPT = list(range(5, 45))


def use(**params: Any) -> dict[str, Any]:
    return {"techniques": [{"name": "llm-in-a-flash", "params": params}]}


def store(most: int = 8, tokens: int = 2) -> tuple[NeuronStore, torch.Tensor]:
    rows = torch.arange(20 * 2 * 4, dtype=torch.float32).view(20, 2, 4)
    return NeuronStore(rows[:, 0], rows[:, 1], most=most, tokens=tokens), rows.half()


def take(neurons: NeuronStore, *wanted: int) -> tuple[torch.Tensor, int]:
    """The rows of `wanted` through the window, and how many of them were read."""
    ids = np.array(wanted)
    missing = neurons.missing(ids)
    places = neurons.keep(ids, missing, neurons.read(missing) if len(missing) else neurons.window[:0])
    return neurons.window[places], len(missing)


def test_the_window_holds_what_the_newest_steps_used() -> None:
    neurons, rows = store()
    for wanted, read in (((1, 2, 3), 3), ((2, 3, 4), 1), ((1, 9), 1), ((3,), 0), ((4,), 1), ((2,), 1)):
        found, count = take(neurons, *wanted)
        assert torch.equal(found, rows[list(wanted)])
        assert count == read, wanted


def test_a_small_window_forgets_sooner_and_stays_right() -> None:
    neurons, rows = store(most=4, tokens=5)
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted = np.sort(rng.choice(20, size=int(rng.integers(1, 5)), replace=False))
        found, _ = take(neurons, *wanted.tolist())
        assert torch.equal(found, rows[wanted])
    assert len(neurons.window) == 4


def test_neighbours_are_read_together_and_counted() -> None:
    neurons, rows = store()
    wanted = np.array([0, 1, 2, 7, 19])
    assert torch.equal(neurons.read(wanted), rows[wanted])
    assert neurons.bytes_read == 5 * 2 * 4 * 2


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_with_all_neurons_active_it_computes_the_mlp(family: str) -> None:
    """Thresholds below every magnitude: what is left is the rounding of the rows to 16 bits."""
    plain = tiny_engine(family)
    engine = tiny_engine(family, **use(active=1.0, rank=64))
    for layer in engine.runner.model.layers:
        assert isinstance(layer.mlp, FlashMLP)
        layer.mlp.threshold = -1.0 if layer.mlp.gated else -1e9
    expected, got = plain.score(PROMPT, 8), engine.score(PROMPT, 8)
    assert torch.allclose(got, expected, atol=0.02 * float(expected.abs().max()))


def test_fewer_active_neurons_are_fewer_bytes_and_another_answer() -> None:
    reads, errors = [], []
    expected = tiny_engine().score(PROMPT, 8)
    for active in (0.9, 0.5, 0.2):
        engine = tiny_engine(**use(active=active, window=1))
        errors.append(float((engine.score(PROMPT, 8) - expected).abs().mean()))
        engine.generate([PROMPT], PARAMS)
        (seam,) = engine.actives
        measured = seam.measured()
        assert measured["neurons_active"] == pytest.approx(active, abs=0.15)
        reads.append(measured["neurons_loaded"])
    assert reads == sorted(reads, reverse=True)
    assert errors == sorted(errors)


def test_a_longer_window_reads_less() -> None:
    found = []
    for window in (1, 8):
        engine = tiny_engine(**use(active=0.4, window=window, window_share=1.0))
        engine.generate([PROMPT], PARAMS)
        found.append(engine.actives[0].measured()["neurons_loaded"])
    assert found[1] < found[0]


def test_memory_is_what_was_counted_and_the_rest_is_on_disk() -> None:
    plain, engine = tiny_engine(), tiny_engine(**use(window_share=0.25))
    model = engine.runner.model
    assert model.allocated() == model.weight_bytes() == engine.memory.weights < plain.memory.weights


def test_expected_neurons_grow_with_the_tokens_of_a_step() -> None:
    expected = Expected(0.1, 0.02)
    assert expected.of(1, 1000) == (100, 20)
    used, read = expected.of(512, 1000)
    assert (used, read) == (1000, 1000)


@pytest.mark.parametrize("params", [{"active": 0.0}, {"window_share": 1.5}, {"window": 0}, {"rank": 0}])
def test_bad_parameters_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="technique llm-in-a-flash"):
        LlmInAFlash(**params)
