"""Fleets of modelled instances, with the plain ways of dispatching that papers compare with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from twofold.fleet.build import build_fleet
from twofold.fleet.fleet import Fleet
from twofold.fleet.policy import Arrival, FleetPolicy, Member, Move, Stages
from twofold.models.catalog import get_spec
from twofold.models.spec import ModelSpec
from twofold.plan import Plan
from twofold.workloads.workload import read_trace

TRACE = "azure-llm-2023-conv.csv"


class Staying:
    """A FleetPolicy under which requests stay where they began: in turn, or at the shortest queue."""

    stages: Stages | None = None

    def __init__(self, instances: int, *, in_turn: bool) -> None:
        self.name = "round-robin" if in_turn else "shortest-queue"
        self.devices: Sequence[str | None] = [None] * instances
        self.in_turn = in_turn
        self.counters = {"dispatched": 0}

    def dispatch(self, request: Arrival, members: Sequence[Member]) -> int:
        """The next one, or the one with fewest tokens to compute."""
        del request
        self.counters["dispatched"] += 1
        if self.in_turn:
            return (self.counters["dispatched"] - 1) % len(members)
        return min(range(len(members)), key=lambda n: members[n].load.pending_tokens)

    def goes_on(self, id: str | int) -> None:
        """Nowhere else."""

    def moves(self, members: Sequence[Member], now: float) -> list[Move]:
        """None ever."""
        del members, now
        return []

    def moved(self, move: Move, arrived: bool) -> None:
        """Does not happen."""
        raise AssertionError(move, arrived)

    def ended(self, id: str | int) -> None:
        """Nothing is kept of a request."""


def predicted_fleet(
    model: str | ModelSpec,
    device: str,
    techniques: list[dict[str, Any]],
    policy: FleetPolicy | None = None,
    *,
    tp: int = 1,
    context: int | None = None,
    **limits: Any,
) -> Fleet:
    """Instances of `model` in fp16 on `tp` of the modelled `device` each. context: where requests are longer
    than the model was made for; `limits` are keys of the plan's engine section."""
    spec = get_spec(model) if isinstance(model, str) else model
    plan = Plan.from_dict(
        {
            "model": spec.name,
            "precision": "fp16",
            "techniques": techniques,
            "parallel": {"tp": tp},
            "workload": {"rate": 1.0},
            "engine": {"prefix_caching": False, **limits},
        }
    )
    spec = replace(spec, max_context=context or spec.max_context)
    return build_fleet(plan, spec, device=device, policy=policy)


@cache
def conversations() -> list[tuple[int, int]]:
    """(prompt, output) tokens of the requests of the Azure conversation trace. ValueError where the data are
    not at hand."""
    folder = os.environ.get("TWOFOLD_DATA")
    if not folder:
        raise ValueError(f"the lengths are those of {TRACE}, and TWOFOLD_DATA names no folder that has it")
    return [(prompt, output) for _, prompt, output in read_trace(Path(folder) / TRACE)]
