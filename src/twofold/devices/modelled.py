"""The base of all modelled devices: charges ops to a virtual clock instead of computing them.

A subclass says what one op takes (`charge`). Charges of ops that recur (everything but attention, whose shape
changes with every token) are remembered and only counted, layers that cost the same are walked through once,
and of a forward pass of a shape that was walked before only the attention is charged anew: that is what makes
a trace of ten thousand requests affordable.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from twofold.devices.base import Device, LayerT, Model, OpTotals, StepCost
from twofold.devices.clock import VirtualClock
from twofold.devices.efficiency.kernels import Kernels
from twofold.devices.walk import Known, Walk
from twofold.ops.attention import Attention
from twofold.ops.base import Cost, Op

if TYPE_CHECKING:
    from twofold.models.cache import CacheLayer
    from twofold.models.step import StepInput

_REMEMBERED_OPS = 200_000
_REMEMBERED_WALKS = 20_000


class Charge(NamedTuple):
    """What one op takes: seconds, joules of dynamic energy, what bounds it ("compute", "memory", "link",
    "overhead"); of a machine made of parts, joules by part, and the unit that is taken where several can work
    on different requests at a time."""

    seconds: float
    joules: float
    bound: str
    parts: tuple[tuple[str, float], ...] = ()
    unit: str = ""


class ModelledDevice(Device):
    """Charges ops.

    idle_watts: burnt for as long as a step takes, by all devices of the deployment, on top of the ops'
    dynamic energy; ranks: devices that execute each op at the same time (a tensor-parallel group does so as
    one), whose energy counts; step_overhead: seconds of host work per step.
    """

    real = False
    generation = ""
    """Whose efficiencies time the ops; empty where the device has a model of its own."""

    def __init__(self, *, idle_watts: float = 0.0, ranks: int = 1, step_overhead: float = 0.0) -> None:
        self._spent: dict[tuple[str, str], OpTotals] = {}
        self._parts: dict[str, float] = {}
        self._known: dict[Op, Known] = {}
        # Walks by model, tokens and rows of logits; the models, which are few; the walk being recorded.
        self._models: dict[int, Model] = {}
        self._walks: dict[tuple[int, int, int], Walk] = {}
        self._walk: Walk | None = None
        self._attended: dict[Attention, tuple[Cost, Charge]] = {}
        super().__init__()
        self.clock = VirtualClock()
        self.idle_watts = idle_watts
        self.ranks = ranks
        self.step_overhead = step_overhead
        self._repeat = 1
        self._seconds = 0.0
        self._joules = 0.0
        self._launches = 0
        self._stages: list[float] = []
        self._stage_start = 0.0
        self._busy: dict[str, float] = {}
        self._alike: dict[int, tuple[Sequence[Any], list[tuple[Any, int]]]] = {}

    @abstractmethod
    def charge(self, op: Op, cost: Cost) -> Charge:
        """What one execution of `op` (whose counted cost is `cost`) takes on this device.

        ValueError for an op that the device cannot execute, naming it and the reason.
        """

    def use(self, kernels: Kernels) -> None:
        """Time ops with a software's `kernels` from here on. No effect on a device whose kernels are its
        own."""

    # --- executing: the hot path ---

    def execute(self, op: Op, *args: Any) -> Any:
        """Charge `op`; returns None for every tensor that a kernel would return."""
        if isinstance(op, Attention):
            return self._execute_attention(op)
        known = self._known.get(op)
        if known is None:
            known = self._learn(op)
        repeat = self._repeat
        if self._walk is not None:
            self._walk.add(known, repeat)
            return known.outputs
        known.calls += repeat
        self._seconds += known.seconds * repeat
        self._joules += known.joules * repeat
        self._launches += repeat
        if known.charge.unit:
            self._take(known.charge.unit, known.seconds * repeat)
        if known.ends_stage:
            self._end_stage()
        return known.outputs

    def _execute_attention(self, op: Attention) -> None:
        """Charge an op that recurs within one step at most: it goes straight into the totals."""
        assert self._walk is None, "attention depends on more than a pass's shape: it goes through `attend`"
        known = self._attended.get(op)
        if known is None:
            cost = op.cost()
            known = self._attended[op] = cost, self.charge(op, cost)
        cost, charge = known
        repeat = self._repeat
        self._seconds += charge.seconds * repeat
        self._joules += charge.joules * repeat
        self._launches += repeat
        if charge.unit:
            self._take(charge.unit, charge.seconds * repeat)
        self._add(op.kind, cost, charge, repeat)

    def _take(self, unit: str, seconds: float) -> None:
        self._busy[unit] = self._busy.get(unit, 0.0) + seconds

    def overlapped(self, seconds: float, busy: dict[str, float]) -> float:
        """Seconds of a step whose ops take `seconds` one after the other, `busy` of them by unit: less where
        units work at the same time on different requests. For subclasses whose charges name units."""
        del busy
        return seconds

    def _learn(self, op: Op) -> Known:
        """Charge an op for the first time."""
        if len(self._known) >= _REMEMBERED_OPS:
            self.forget_charges()
        cost = op.cost()
        known = self._known[op] = Known(op, cost, self.charge(op, cost))
        return known

    def _end_stage(self) -> None:
        self._stages.append(self._seconds - self._stage_start)
        self._stage_start = self._seconds

    def forward(self, model: Model, step: StepInput) -> None:
        """Charge a forward pass: its attention, and the sums of everything else, which are found by walking
        through the model when a pass of that shape is seen first."""
        shape = id(model), step.num_tokens, step.num_logits
        walk = self._walks.get(shape)
        if walk is None:
            walk = self._walk_through(model, step)
            if len(self._walks) >= _REMEMBERED_WALKS:
                self._forget_walks()
            self._walks[shape], self._models[id(model)] = walk, model
        walk.calls += 1
        for stage in walk.stages:
            self._seconds += stage.seconds
            self._joules += stage.joules
            self._launches += stage.launches
            for unit, seconds in stage.units.items():
                self._take(unit, seconds)
            for cache, repeat in stage.attention:
                self._repeat = repeat
                cache.attend(self, step, None, None, None)
            if stage.ends:
                self._end_stage()
        self._repeat = 1

    def _walk_through(self, model: Model, step: StepInput) -> Walk:
        """A pass of that shape. Nothing is charged for."""
        self._walk = walk = Walk()
        try:
            model.forward(step, self)
        finally:
            self._walk = None
        return walk

    def attend(self, cache: CacheLayer, step: StepInput, q: Any, k: Any, v: Any, *inputs: Any) -> Any:
        """Charge the ops of `cache`'s choice; during a walk, only note that it attends."""
        if self._walk is None:
            return cache.attend(self, step, q, k, v, *inputs)
        self._walk.stages[-1].attention.append((cache, self._repeat))
        return None

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """One layer of each signature; its ops are charged as often as the signature occurs in `layers`."""
        alike = self._alike.get(id(layers))
        if alike is None or alike[0] is not layers:
            counts: dict[object, list[Any]] = {}
            for layer in layers:
                counts.setdefault(layer.signature, [layer, 0])[1] += 1
            alike = (layers, [(layer, n) for layer, n in counts.values()])
            self._alike[id(layers)] = alike
        for layer, count in alike[1]:
            self._repeat = count
            yield layer
        self._repeat = 1

    # --- steps ---

    def begin_step(self) -> None:
        """Start a step; `step_overhead` seconds of host work belong to each."""
        self._seconds = self.step_overhead
        self._joules = 0.0
        self._launches = 0
        self._stages = []
        self._stage_start = 0.0
        self._busy = {}
        self._attended = {}

    def end_step(self) -> StepCost:
        """The step's cost. The caller moves the clock: a pipelined engine overlaps steps."""
        if self._busy:
            self._seconds = self.overlapped(self._seconds, self._busy)
        stages = [*self._stages, self._seconds - self._stage_start]
        joules = self._joules * self.ranks + self.idle_watts * self._seconds
        return StepCost(self._seconds, joules, stages, self._launches)

    # --- totals ---

    def _add(self, kind: str, cost: Cost, charge: Charge, calls: int) -> None:
        key = (kind, charge.bound)
        totals = self._spent.get(key)
        if totals is None:
            totals = self._spent[key] = OpTotals()
        totals.calls += calls
        totals.seconds += charge.seconds * calls
        totals.joules += charge.joules * calls * self.ranks
        totals.flop += cost.flop * calls
        totals.vector_flop += cost.vector_flop * calls
        totals.bytes_moved += cost.bytes_moved * calls
        totals.sent += cost.sent * calls
        for part, joules in charge.parts:
            self._parts[part] = self._parts.get(part, 0.0) + joules * calls * self.ranks

    def _settle(self) -> dict[tuple[str, str], OpTotals]:
        """Totals by kind and bound, with all counted executions added."""
        for known in self._known.values():
            if known.calls:
                self._add(known.kind, known.cost, known.charge, known.calls)
                known.calls = 0
        for walk in self._walks.values():
            if walk.calls:
                for known, repeat in walk.ops:
                    self._add(known.kind, known.cost, known.charge, repeat * walk.calls)
                walk.calls = 0
        return self._spent

    def _forget_walks(self) -> None:
        self._settle()
        self._walks, self._models = {}, {}

    def forget_charges(self) -> None:
        """Charge every op anew from here on: for subclasses whose charges have changed."""
        self._forget_walks()
        self._known = {}
        self._attended = {}

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
        self._spent, self._parts = {}, {}

    @property
    def joules_by_part(self) -> dict[str, float]:
        """Dynamic energy by part since the last `reset_totals`, on a machine that is made of parts."""
        self._settle()
        return dict(self._parts)

    @property
    def bounds(self) -> dict[tuple[str, str], float]:
        """Seconds by op kind and by what bound them."""
        return {key: total.seconds for key, total in self._settle().items()}
