"""A tiny random model with a tokenizer, as a checkpoint: what most tests run on. Fixed seed, no files but its
own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tests.models.tiny import VOCAB, tiny_hf_dir

from twofold.devices.base import Device
from twofold.devices.torch_device import TorchDevice
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.fleet.build import build_fleet, fleet_technique
from twofold.fleet.fleet import Fleet
from twofold.fleet.wire import Wire
from twofold.models.loading import load_checkpoint
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan

__all__ = ["VOCAB", "tiny_checkpoint", "tiny_engine", "tiny_plan", "tiny_target"]


@cache
def tiny_checkpoint(family: str = "llama") -> Checkpoint:
    """The small model of `family` (3 layers, hidden 64, 160 tokens), written once per session."""
    return load_checkpoint(tiny_hf_dir(family, Path(mkdtemp(prefix="twofold-tiny-"))))


def tiny_plan(**changes: object) -> Plan:
    """A plan for the tiny model; quality off, small limits."""
    values: dict[str, object] = {
        "model": "tiny",
        "workload": {"requests": 3, "prompt": 40, "output": 12, "concurrency": 2},
        "engine": {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256},
        "quality": {"enabled": False},
    }
    return Plan.from_dict({**values, **changes})


def tiny_engine(family: str = "llama", *, device: Device | None = None, **changes: object) -> Engine:
    """An engine for `tiny_plan(**changes)` on `device` (default: the CPU with reference kernels); calibration
    text is a fixed stretch of token ids."""
    checkpoint = tiny_checkpoint(family)
    ids = [(7 * i * i + 3 * i) % (VOCAB - 3) + 3 for i in range(96)]
    return build_engine(
        tiny_plan(**changes),
        device or TorchDevice("cpu"),
        checkpoint.spec,
        checkpoint,
        calibration=lambda: ids,
    )


def tiny_target(
    family: str = "llama",
    *,
    make: Callable[[], Device] = lambda: TorchDevice("cpu"),
    **changes: object,
) -> Engine | Fleet:
    """As `tiny_engine` on the device that `make` makes; where a technique works on several instances, all of
    them, each on a device of its own."""
    plan = tiny_plan(**changes)
    if fleet_technique(plan) is None:
        return tiny_engine(family, device=make(), **changes)
    checkpoint = tiny_checkpoint(family)
    ids = [(7 * i * i + 3 * i) % (VOCAB - 3) + 3 for i in range(96)]
    return build_fleet(
        plan,
        checkpoint.spec,
        checkpoint,
        make=lambda _: make(),
        wire=Wire(None),
        calibration=lambda: ids,
    )
