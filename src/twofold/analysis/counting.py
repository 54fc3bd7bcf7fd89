"""A device that only counts: what a step of the engine computes, reads, writes and sends on one rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from twofold.devices.base import Device, LayerT, StepCost
from twofold.devices.clock import VirtualClock
from twofold.engine.build import build_engine
from twofold.engine.engine import Engine
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.models.tensors import Checkpoint
from twofold.ops.attention import Span
from twofold.ops.base import DEVICE, Op, Precision
from twofold.ops.movement import Collective
from twofold.plan import Plan

_BOUNDLESS = 1 << 62
"""Bytes of memory of a device that nothing is to be too large for."""


@dataclass(slots=True)
class Counted:
    """Work of one step on one rank.

    flop: matrix FLOP by precision; flop_of: the same by kind of op; vector_flop: elementwise operations;
    moved: bytes read and written in device memory by role ("weights", "cache", "activations"); sent: bytes
    over links between devices; messages: collectives, one after the other.
    """

    flop: dict[Precision, float] = field(default_factory=dict)
    flop_of: dict[str, float] = field(default_factory=dict)
    vector_flop: float = 0.0
    moved: dict[str, float] = field(default_factory=dict)
    sent: float = 0.0
    messages: int = 0

    @property
    def matrix_flop(self) -> float:
        """Matrix FLOP of all precisions."""
        return sum(self.flop.values())

    @property
    def streamed(self) -> float:
        """Bytes of weights and cache, which pass the memory whatever a device's caches hold of
        activations."""
        return self.moved.get("weights", 0.0) + self.moved.get("cache", 0.0)


class Counter(Device):
    """Executes nothing and takes no time: `counted` sums the costs of the ops since the last `begin_step`."""

    name = "counter"
    real = False
    linkable = True
    confidence = "datasheet"

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.memory = {DEVICE: _BOUNDLESS}
        self.counted = Counted()
        self._repeat = 1

    def execute(self, op: Op, *args: Any) -> Any:
        """Add the cost of `op`; returns None for every tensor that a kernel would return."""
        del args
        cost, times, counted = op.cost(), self._repeat, self.counted
        if cost.flop:
            counted.flop[cost.precision] = counted.flop.get(cost.precision, 0.0) + cost.flop * times
            counted.flop_of[op.kind] = counted.flop_of.get(op.kind, 0.0) + cost.flop * times
        counted.vector_flop += cost.vector_flop * times
        for part in cost.traffic:
            if part.space == DEVICE:
                nbytes = (part.read + part.written) * times
                counted.moved[part.role] = counted.moved.get(part.role, 0.0) + nbytes
        counted.sent += cost.sent * times
        counted.messages += times if isinstance(op, Collective) else 0
        return None if op.outputs == 1 else (None,) * op.outputs

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """One layer of each signature, counted as often as the signature occurs."""
        groups: dict[object, list[LayerT]] = {}
        for layer in layers:
            groups.setdefault(layer.signature, []).append(layer)
        for equal in groups.values():
            self._repeat = len(equal)
            yield equal[0]
        self._repeat = 1

    def begin_step(self) -> None:
        """Forget what was counted."""
        self.counted = Counted()

    def end_step(self) -> StepCost:
        """No time."""
        return StepCost()


class StepCounter:
    """Counts single steps of `plan`'s engine on one rank; techniques, formats and parallelism as `predict`
    has them.

    ValueError where the plan cannot work, whatever the device.
    """

    def __init__(self, plan: Plan, spec: ModelSpec, stored: Checkpoint | None = None) -> None:
        self._device = Counter()
        self.engine: Engine = build_engine(plan, self._device, spec, stored)

    def step(self, spans: Sequence[Span], num_logits: int) -> Counted:
        """What a step of `spans` that wants `num_logits` rows of logits takes."""
        self._device.begin_step()
        self.engine.runner.model.forward(
            StepInput(spans, sum(span.queries for span in spans), num_logits), self._device
        )
        return self._device.counted
