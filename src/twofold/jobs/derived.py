"""What the engine derives from a plan where the plan leaves it open, without building an engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from twofold.devices.registry import make_device
from twofold.engine.active import activate
from twofold.engine.build import decide_limits, make_techniques
from twofold.models.find import find_spec
from twofold.plan import Plan


def derived_limits(plan: Plan) -> dict[str, Any]:
    """The engine's limits for `plan` on its device, every default decided, and how the device executes ops;
    capacity is in bytes.

    ValueError where model, device or techniques are unknown or cannot work together, or the device is not
    here.
    """
    spec = find_spec(plan.model)
    techniques = make_techniques(plan, spec)
    device = make_device(plan.device, **plan.parallel.model_dump(), **plan.engine.device_options)
    actives = [activate(t, real=False, overrides=plan.behaviour, recorded={}) for t in techniques]
    return {**asdict(decide_limits(plan, device, spec, actives)), **device.settings()}
