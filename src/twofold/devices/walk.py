"""What a forward pass charges, remembered, so that the next one of the same shape need not be walked through.

Outside attention, the ops of a pass depend on two numbers alone: how many tokens the step has, and how many
rows of logits it wants. Attention goes through `Device.attend`, where a cache layer chooses its ops by what
each sequence holds. So a walk keeps sums of everything outside, and the list of cache layers that attended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from twofold.ops.base import Cost, Op
from twofold.ops.movement import Send

if TYPE_CHECKING:
    from twofold.devices.modelled import Charge
    from twofold.models.cache import CacheLayer


class Known:
    """A charged op. calls: executions since the totals were last asked for."""

    __slots__ = ("calls", "charge", "cost", "ends_stage", "joules", "kind", "outputs", "seconds")

    def __init__(self, op: Op, cost: Cost, charge: Charge) -> None:
        self.kind = op.kind
        self.cost = cost
        self.charge = charge
        self.seconds, self.joules = charge.seconds, charge.joules
        self.outputs = None if op.outputs == 1 else (None,) * op.outputs
        self.ends_stage = isinstance(op, Send)
        self.calls = 0


@dataclass(slots=True)
class Stage:
    """One pipeline stage of a walk: seconds, joules and number of its ops outside attention, and its
    attention: cache layers, each with the layers that it stands for. ends: by sending to the next stage;
    units: seconds by unit, see `Charge`."""

    seconds: float = 0.0
    joules: float = 0.0
    launches: int = 0
    attention: list[tuple[CacheLayer, int]] = field(default_factory=list)
    ends: bool = False
    units: dict[str, float] = field(default_factory=dict)


class Walk:
    """A forward pass outside attention.

    stages: sums by pipeline stage; ops: what was charged, each with its executions per pass; calls: passes
    since the totals were last asked for.
    """

    __slots__ = ("calls", "ops", "stages")

    def __init__(self) -> None:
        self.stages = [Stage()]
        self.ops: list[tuple[Known, int]] = []
        self.calls = 0

    def add(self, known: Known, repeat: int) -> None:
        """Append an op that was executed `repeat` times."""
        stage = self.stages[-1]
        stage.seconds += known.seconds * repeat
        stage.joules += known.joules * repeat
        stage.launches += repeat
        if unit := known.charge.unit:
            stage.units[unit] = stage.units.get(unit, 0.0) + known.seconds * repeat
        self.ops.append((known, repeat))
        if known.ends_stage:
            stage.ends = True
            self.stages.append(Stage())
