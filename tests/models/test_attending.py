"""The seam of attention methods: a method stands between a cache and the ops that attend over it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import tiny_checkpoint, tiny_engine

from twofold.devices.cpu_device import CpuDevice
from twofold.engine.request import SamplingParams
from twofold.kernels.cpu import native
from twofold.models.attending import Attending
from twofold.models.build import ModelOptions, build_model
from twofold.models.cache import Heads
from twofold.models.dense_cache import DenseCacheScheme

PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)
ASKED = [list(range(3, 50)), list(range(60, 80))]


class Noted(Attending):
    """Plain attention that notes the steps it is asked for."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.steps: list[int] = []

    @property
    def cost_key(self) -> object:
        return Noted, self.layer % 2

    def attend(self, device: Any, cache: Any, step: Any, plain: Any, q: Any, *new: Any) -> Any:
        self.steps.append(step.num_tokens)
        return super().attend(device, cache, step, plain, q, *new)


class Scheme:
    def __init__(self) -> None:
        self.made: list[Noted] = []

    def attending(self, heads: Heads, layer: int) -> Noted | None:
        if layer == 2:
            return None
        self.made.append(Noted(layer))
        return self.made[-1]


def test_a_scheme_decides_layer_by_layer() -> None:
    scheme = Scheme()
    model = build_model(tiny_checkpoint().spec, ModelOptions(attending=scheme))
    assert [cache.attending for cache in model.caches] == [*scheme.made, None]


def test_layers_of_different_methods_are_charged_apart() -> None:
    model = build_model(tiny_checkpoint().spec, ModelOptions(attending=Scheme()))
    assert len({layer.signature for layer in model.layers}) == 3
    plain = build_model(tiny_checkpoint().spec, ModelOptions())
    assert len({layer.signature for layer in plain.layers}) == 1


def test_attention_without_a_method_is_unchanged() -> None:
    layer = Heads(2, 1, 8, 8, 1.0, None, None, "fp32", 4)
    cache = DenseCacheScheme().cache_layer(layer, 16, 0)
    assert cache.attending is None
    before = cache.cost_key
    cache.attending = Noted(0)
    assert cache.cost_key != before


def attend_through(engine: Any) -> list[Noted]:
    """Put a method into every layer of an engine."""
    methods = [Noted(i) for i in range(len(engine.runner.model.caches))]
    for cache, method in zip(engine.runner.model.caches, methods, strict=True):
        cache.attending = method
    return methods


def test_a_method_sees_every_step_of_a_reference_run() -> None:
    engine = tiny_engine()
    methods = attend_through(engine)
    got = [c.token_ids for c in engine.generate(ASKED, PARAMS)]
    assert got == [c.token_ids for c in tiny_engine().generate(ASKED, PARAMS)]
    assert sum(methods[0].steps) == sum(map(len, ASKED)) + 2 * 11
    assert methods[0].steps == methods[2].steps


@pytest.mark.skipif(native() is None, reason="the native kernels are not built")
def test_recorded_steps_call_a_method_with_ops_of_its_own() -> None:
    """Replayed steps go through `attend` again, and count its ops."""
    engine = tiny_engine(device=CpuDevice(kernels="native-fp32", threads=2))
    methods = attend_through(engine)
    engine.reset_totals()
    engine.generate(ASKED, PARAMS)
    replayed = engine.device.totals["attention"].flop
    assert sum(methods[1].steps) == sum(map(len, ASKED)) + 2 * 11
    plain = tiny_engine(device=CpuDevice(kernels="native-fp32", threads=2))
    plain.reset_totals()
    plain.generate(ASKED, PARAMS)
    assert replayed == pytest.approx(plain.device.totals["attention"].flop)
    assert torch.isfinite(torch.tensor(replayed))
