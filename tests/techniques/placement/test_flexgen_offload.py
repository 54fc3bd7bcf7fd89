"""Layers in host memory and on disk: what is held, what is read, and that it computes the same."""

from __future__ import annotations

from typing import Any

import pytest
from tests.tiny import tiny_checkpoint, tiny_engine, tiny_plan

from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.ops.base import DEVICE, DISK, HOST
from twofold.plan import Plan
from twofold.techniques.placement.flexgen_offload import FlexGenOffload, LayerShares

PARAMS = SamplingParams(max_tokens=10, ignore_eos=True)
PROMPTS = [list(range(5, 30)), list(range(40, 51)), list(range(60, 99))]


def use(**params: Any) -> dict[str, Any]:
    return {"techniques": [{"name": "flexgen-offload", "params": params}]}


@pytest.mark.parametrize(
    ("share", "host", "spaces"),
    [
        (0.0, 0.0, [DISK] * 4),
        (0.5, 0.25, [DEVICE, DEVICE, HOST, DISK]),
        (0.0, 1.0, [HOST] * 4),
    ],
)
def test_layers_lie_where_the_shares_say(share: float, host: float, spaces: list[str]) -> None:
    shares = LayerShares(share, host, 1.0)
    assert [shares.space(i, 4) for i in range(4)] == spaces


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("share", "host"), [(0.0, 0.0), (0.34, 0.0), (0.34, 0.33), (0.0, 1.0), (0.67, 0.0)])
def test_the_text_is_the_same_and_the_memory_is_less(share: float, host: float, native: bool) -> None:
    device = (lambda: make_device("cpu")) if native else (lambda: None)
    plain = tiny_engine(device=device())  # type: ignore[arg-type]
    engine = tiny_engine(device=device(), **use(weights_device=share, weights_host=host))  # type: ignore[arg-type]
    assert [c.token_ids for c in engine.generate(PROMPTS, PARAMS)] == [
        c.token_ids for c in plain.generate(PROMPTS, PARAMS)
    ]
    model = engine.runner.model
    assert model.allocated() == model.weight_bytes() == engine.memory.weights
    (active,) = engine.actives
    offloaded = active.counters["layers_offloaded"]
    assert offloaded == 3 - round(3 * share)
    assert active.counters["layers_fetched"] >= offloaded * engine.totals.steps
    if offloaded == 3:  # two of three layers are buffers
        assert engine.memory.weights < plain.memory.weights


def test_every_step_reads_every_offloaded_layer_once() -> None:
    engine = tiny_engine(**use())
    engine.generate(PROMPTS[:1], PARAMS)
    (active,) = engine.actives
    before, steps = active.counters["layers_fetched"], engine.totals.steps
    engine.generate(PROMPTS[:1], PARAMS)
    read = active.counters["layers_fetched"] - before
    assert abs(read - 3 * (engine.totals.steps - steps)) <= 1  # one is read ahead


def test_another_order_of_layers_does_not_mix_them_up() -> None:
    plain, engine = tiny_engine(), tiny_engine(**use())
    expected = plain.generate(PROMPTS[:1], PARAMS)[0].token_ids
    layer = engine.runner.model.layers[1]
    attention, layer.attention = layer.attention, None
    fetching, layer.fetching = layer.fetching, None
    engine.generate(PROMPTS[:1], PARAMS)  # goes through the layers in another order
    layer.attention, layer.fetching = attention, fetching
    engine.scheduler.blocks.forget_cached()
    assert engine.generate([PROMPTS[0]], PARAMS)[0].token_ids == expected


def test_modelled_devices_are_charged_for_the_link() -> None:
    def per_token(**params: Any) -> float:
        values: dict[str, object] = {"model": "llama-2-7b", "precision": "fp16"}
        plan = Plan.from_dict(values | (use(**params) if params else {}))
        engine = build_engine(plan, make_device("a100-80g-sxm"), get_spec("llama-2-7b"))
        (request,) = engine.play([(0.0, 64, SamplingParams(max_tokens=33, ignore_eos=True))])
        assert request.last_token_time is not None
        assert request.first_token_time is not None
        return (request.last_token_time - request.first_token_time) / 32

    device, host, disk = per_token(), per_token(weights_host=1.0), per_token(weights_device=0.5)
    spec, file = get_spec("llama-2-7b"), make_device("a100-80g-sxm").file  # type: ignore[attr-defined]
    each = spec.attention_parameters() + spec.mlp_parameters(0)
    layers = 2 * spec.num_layers * each
    assert host == pytest.approx(layers / file.host.bandwidth.value, rel=0.2)
    assert disk == pytest.approx(layers / 2 / file.disk.bandwidth.value, rel=0.2)
    assert device < host < disk


def test_an_offloaded_cache_takes_no_device_memory() -> None:
    plan = {"model": "llama-2-7b", "precision": "fp16", "engine": {"memory": 15_000_000_000}}

    def blocks(**params: Any) -> int:
        given = Plan.from_dict({**plan, **use(**params)})
        return build_engine(given, make_device("a100-80g-sxm"), get_spec("llama-2-7b")).memory.num_blocks

    assert blocks(weights_host=0.01, cache_device=0.25) > 2 * blocks(weights_host=0.01, cache_device=1.0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weights_device": 1.2}, "a share from 0 to 1"),
        ({"weights_device": 0.7, "weights_host": 0.5}, "use weights_host=0.3"),
        ({"weights_device": 1.0}, "nothing is offloaded"),
    ],
)
def test_shares_that_make_no_sense_are_refused(params: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlexGenOffload(**params)


def test_the_plan_of_a_prediction_counts_the_same_bytes() -> None:
    real = tiny_engine(**use(weights_device=0.34))
    plan = tiny_plan(**use(weights_device=0.34), precision="fp32")
    modelled = build_engine(plan, make_device("h100-sxm"), tiny_checkpoint().spec)
    assert modelled.memory.weights == real.memory.weights
