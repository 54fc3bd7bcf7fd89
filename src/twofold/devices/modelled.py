"""The base of all modelled devices: charges ops to a virtual clock instead of computing them.

A subclass says what one op takes (`charge`). Charges of ops that recur (everything but attention, whose shape changes
with every token) are remembered, and layers that cost the same are walked through once: that is what makes a trace of
ten thousand requests affordable.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from twofold.devices.base import Device, LayerT, OpTotals, StepCost
from twofold.devices.clock import VirtualClock
from twofold.ops.attention import Attention
from twofold.ops.base import Cost, Op
from twofold.ops.movement import Send

_REMEMBERED = 200_000


class Charge(NamedTuple):
    """What one op takes: seconds, joules of dynamic energy, what bounds it ("compute", "memory", "link", "overhead")."""

    seconds: float
    joules: float
    bound: str


class ModelledDevice(Device):
    """Charges ops. `idle_watts` burn for as long as a step takes, on top of the ops' dynamic energy."""

    real = False

    def __init__(self, *, idle_watts: float = 0.0, step_overhead: float = 0.0) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.idle_watts = idle_watts
        self.step_overhead = step_overhead
        self.bounds: dict[tuple[str, str], float] = {}
        self._repeat = 1
        self._seconds = 0.0
        self._joules = 0.0
        self._stages: list[float] = []
        self._known: dict[Op, tuple[Charge, Cost]] = {}
        self._walks: dict[int, tuple[Sequence[Any], list[tuple[Any, int]]]] = {}

    @abstractmethod
    def charge(self, op: Op, cost: Cost) -> Charge:
        """What one execution of `op` (whose counted cost is `cost`) takes on this device.

        ValueError for an op that the device cannot execute, naming it and the reason.
        """

    def execute(self, op: Op, *args: Any) -> Any:
        """Charge `op`; returns None for every tensor that a kernel would return."""
        del args
        known = self._known.get(op)
        if known is None:
            cost = op.cost()
            known = (self.charge(op, cost), cost)
            if not isinstance(op, Attention) and len(self._known) < _REMEMBERED:
                self._known[op] = known
        charge, cost = known
        repeat = self._repeat
        seconds = charge.seconds * repeat
        self._seconds += seconds
        self._joules += charge.joules * repeat
        totals = self.totals.get(op.kind)
        if totals is None:
            totals = self.totals[op.kind] = OpTotals()
        totals.calls += repeat
        totals.seconds += seconds
        totals.joules += charge.joules * repeat
        totals.flop += cost.flop * repeat
        totals.vector_flop += cost.vector_flop * repeat
        totals.bytes_moved += cost.bytes_moved * repeat
        totals.sent += cost.sent * repeat
        key = (op.kind, charge.bound)
        self.bounds[key] = self.bounds.get(key, 0.0) + seconds
        if type(op) is Send:
            self._stages.append(self._seconds - sum(self._stages))
        return None if op.outputs == 1 else (None,) * op.outputs

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """One layer of each signature; its ops are charged as often as the signature occurs in `layers`."""
        walk = self._walks.get(id(layers))
        if walk is None or walk[0] is not layers:
            counts: dict[object, list[Any]] = {}
            for layer in layers:
                counts.setdefault(layer.signature, [layer, 0])[1] += 1
            walk = (layers, [(layer, n) for layer, n in counts.values()])
            self._walks[id(layers)] = walk
        for layer, count in walk[1]:
            self._repeat = count
            yield layer
        self._repeat = 1

    def begin_step(self) -> None:
        """Start a step; `step_overhead` seconds of host work belong to each."""
        self._seconds = self.step_overhead
        self._joules = 0.0
        self._stages = []

    def end_step(self) -> StepCost:
        """The step's cost. The caller moves the clock: a pipelined engine overlaps steps."""
        stages = [*self._stages, self._seconds - sum(self._stages)]
        return StepCost(self._seconds, self._joules + self.idle_watts * self._seconds, stages)

    def reset_totals(self) -> None:
        """Forget the collected totals and bounds."""
        super().reset_totals()
        self.bounds = {}
