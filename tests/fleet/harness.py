"""Fleets of the tiny model: real ones, and modelled ones with the same step times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.test_invariants import TimedCpu, TimedModel
from tests.tiny import tiny_checkpoint, tiny_plan

from twofold.devices.base import Device
from twofold.devices.links import Link
from twofold.devices.torch_device import TorchDevice
from twofold.fleet.build import build_fleet
from twofold.fleet.fleet import Fleet
from twofold.fleet.policy import Stages
from twofold.fleet.wanderers import Wanderers
from twofold.fleet.wire import Wire

LIMITS = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_context": 256, "prefix_caching": False}


def tiny_fleet(
    name: str,
    *,
    make: Callable[[], Device] = lambda: TorchDevice("cpu"),
    wire: Wire | None = None,
    family: str = "llama",
    engine: dict[str, Any] | None = None,
    **params: Any,
) -> Fleet:
    """A fleet of the technique `name` on devices that `make` makes; weights of `family`."""
    checkpoint = tiny_checkpoint(family)
    plan = tiny_plan(techniques=[{"name": name, "params": params}], engine={**LIMITS, **(engine or {})})
    return build_fleet(plan, checkpoint.spec, checkpoint, make=lambda _: make(), wire=wire)


def wander(fleet: Fleet, seed: int = 0, stages: Stages | None = None) -> Fleet:
    """`fleet` with requests that move at random."""
    fleet.policy = Wanderers(len(fleet.instances), seed, stages)
    return fleet


def slow_wire(seconds_per_block: float = 0.004) -> Wire:
    """A wire on which a block of the tiny model takes about as long as a step."""
    nbytes = sum(c.block_bytes() for c in tiny_fleet("splitwise").engines[0].runner.caches)
    return Wire(Link(nbytes / seconds_per_block, 1e-4))


__all__ = ["LIMITS", "TimedCpu", "TimedModel", "Wanderers", "slow_wire", "tiny_fleet", "wander"]
