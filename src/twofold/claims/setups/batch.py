"""One batch of equal requests on a modelled device: what most speed claims are measured with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from twofold.devices.modelled import ModelledDevice
from twofold.devices.registry import make_device
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.engine.request import SamplingParams
from twofold.models.catalog import get_spec
from twofold.ops.base import DEVICE
from twofold.ops.movement import Copy
from twofold.plan import Plan


class BatchLoad(NamedTuple):
    """`requests` of `prompt` tokens that all arrive at once and yield `output` tokens each."""

    requests: int
    prompt: int
    output: int


def predicted_engine(
    model: str, device: str, techniques: list[str], load: BatchLoad, **limits: Any
) -> Engine:
    """An engine for `load` in fp16 on the modelled `device`; `limits` are keys of the plan's engine
    section."""
    plan = Plan.from_dict(
        {
            "model": model,
            "precision": "fp16",
            "techniques": techniques,
            "workload": load._asdict(),
            "engine": {"max_num_seqs": load.requests, **limits},
        }
    )
    return build_engine(plan, make_device(device), get_spec(model))


def predicted_seconds(engine: Engine, load: BatchLoad) -> float:
    """Virtual seconds from the arrival of all prompts to the last token of all. NotReachedError where a
    technique was not used."""
    start = engine.clock.now()
    params = SamplingParams(max_tokens=load.output, ignore_eos=True)
    engine.play((0.0, load.prompt, params) for _ in range(load.requests))
    engine.check_techniques()
    return engine.clock.now() - start


def copying_seconds(engine: Engine, load: BatchLoad, copied: Callable[[int], float]) -> float:
    """Seconds that a framework which grows a cache by concatenation copies it, over all decode steps of
    `load`: transformers' DynamicCache.update makes a new tensor of all entries for each token.

    copied: bytes of one request that a step copies where so many of its tokens are cached.
    """
    assert isinstance(engine.device, ModelledDevice)
    nbytes = load.requests * sum(map(copied, range(load.prompt, load.prompt + load.output - 1)))
    op = Copy(round(nbytes), DEVICE, DEVICE)
    return engine.device.charge(op, op.cost()).seconds
