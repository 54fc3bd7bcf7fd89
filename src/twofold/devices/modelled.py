"""The base of all modelled devices: charges ops to a virtual clock instead of computing them.

A subclass says what one op takes (`charge`). Charges of ops that recur (everything but attention, whose shape
changes with every token) are remembered and only counted, and layers that cost the same are walked through
once: that is what makes a trace of ten thousand requests affordable.
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
    """What one op takes: seconds, joules of dynamic energy, what bounds it ("compute", "memory", "link",
    "overhead")."""

    seconds: float
    joules: float
    bound: str


class _Known:
    """A charged op and how often it was executed since the totals were last asked for."""

    __slots__ = ("bound", "calls", "cost", "ends_stage", "joules", "kind", "outputs", "seconds")

    def __init__(self, op: Op, cost: Cost, charge: Charge) -> None:
        self.kind = op.kind
        self.cost = cost
        self.seconds, self.joules, self.bound = charge
        self.outputs = None if op.outputs == 1 else (None,) * op.outputs
        self.ends_stage = isinstance(op, Send)
        self.calls = 0


class ModelledDevice(Device):
    """Charges ops.

    idle_watts: burnt for as long as a step takes, by all devices of the deployment, on top of the ops'
    dynamic energy; ranks: devices that execute each op at the same time (a tensor-parallel group does so as
    one), whose energy counts; step_overhead: seconds of host work per step.
    """

    real = False

    def __init__(self, *, idle_watts: float = 0.0, ranks: int = 1, step_overhead: float = 0.0) -> None:
        self._spent: dict[tuple[str, str], OpTotals] = {}
        self._known: dict[Op, _Known] = {}
        super().__init__()
        self.clock = VirtualClock()
        self.idle_watts = idle_watts
        self.ranks = ranks
        self.step_overhead = step_overhead
        self._repeat = 1
        self._seconds = 0.0
        self._joules = 0.0
        self._stages: list[float] = []
        self._stage_start = 0.0
        self._walks: dict[int, tuple[Sequence[Any], list[tuple[Any, int]]]] = {}

    @abstractmethod
    def charge(self, op: Op, cost: Cost) -> Charge:
        """What one execution of `op` (whose counted cost is `cost`) takes on this device.

        ValueError for an op that the device cannot execute, naming it and the reason.
        """

    # --- executing: the hot path ---

    def execute(self, op: Op, *args: Any) -> Any:
        """Charge `op`; returns None for every tensor that a kernel would return."""
        known = None if type(op) is Attention else self._known.get(op)
        if known is None:
            known = self._learn(op)
        repeat = self._repeat
        known.calls += repeat
        self._seconds += known.seconds * repeat
        self._joules += known.joules * repeat
        if known.ends_stage:
            self._stages.append(self._seconds - self._stage_start)
            self._stage_start = self._seconds
        return known.outputs

    def _learn(self, op: Op) -> _Known:
        """Charge an op for the first time. One that does not recur goes straight into the totals."""
        cost = op.cost()
        known = _Known(op, cost, self.charge(op, cost))
        if type(op) is Attention or len(self._known) >= _REMEMBERED:
            self._add(known, self._repeat)
        else:
            self._known[op] = known
        return known

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

    # --- steps ---

    def begin_step(self) -> None:
        """Start a step; `step_overhead` seconds of host work belong to each."""
        self._seconds = self.step_overhead
        self._joules = 0.0
        self._stages = []
        self._stage_start = 0.0

    def end_step(self) -> StepCost:
        """The step's cost. The caller moves the clock: a pipelined engine overlaps steps."""
        stages = [*self._stages, self._seconds - self._stage_start]
        return StepCost(self._seconds, self._joules * self.ranks + self.idle_watts * self._seconds, stages)

    # --- totals ---

    def _add(self, known: _Known, calls: int) -> None:
        key = (known.kind, known.bound)
        totals = self._spent.get(key)
        if totals is None:
            totals = self._spent[key] = OpTotals()
        cost = known.cost
        totals.calls += calls
        totals.seconds += known.seconds * calls
        totals.joules += known.joules * calls * self.ranks
        totals.flop += cost.flop * calls
        totals.vector_flop += cost.vector_flop * calls
        totals.bytes_moved += cost.bytes_moved * calls
        totals.sent += cost.sent * calls

    def _settle(self) -> dict[tuple[str, str], OpTotals]:
        """Totals by kind and bound, with all counted executions added."""
        for known in self._known.values():
            if known.calls:
                self._add(known, known.calls)
                known.calls = 0
        return self._spent

    def forget_charges(self) -> None:
        """Charge every op anew from here on: for subclasses whose charges have changed."""
        self._settle()
        self._known = {}

    @property
    def totals(self) -> dict[str, OpTotals]:
        """Work, time and dynamic energy by op kind since the last `reset_totals`."""
        by_kind: dict[str, OpTotals] = {}
        for (kind, _), part in self._settle().items():
            total = by_kind.setdefault(kind, OpTotals())
            for name in OpTotals.__slots__:
                setattr(total, name, getattr(total, name) + getattr(part, name))
        return by_kind

    @totals.setter
    def totals(self, value: dict[str, OpTotals]) -> None:
        assert not value, "totals are collected by executing ops; they can only be cleared"
        self._settle()
        self._spent = {}

    @property
    def bounds(self) -> dict[tuple[str, str], float]:
        """Seconds by op kind and by what bound them."""
        return {key: total.seconds for key, total in self._settle().items()}
