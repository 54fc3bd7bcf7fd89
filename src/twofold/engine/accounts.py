"""Accounts: what an engine says of itself once its requests have ended. Plain values, so that they come from
another process as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twofold.devices.base import Confidence, OpTotals
from twofold.devices.modelled import ModelledDevice
from twofold.engine.active import Active
from twofold.engine.memory import MemoryPlan
from twofold.engine.totals import EngineTotals

if TYPE_CHECKING:
    from twofold.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class TechniqueAccounts:
    """A technique that was on: its parameters, what it counted, the data-dependent quantities that it was
    told (with where they come from) and those that a real run measured. shared: it counts for all instances
    together."""

    name: str
    params: dict[str, Any]
    counters: dict[str, int]
    behaviour: dict[str, tuple[float, str]]
    measured: dict[str, float]
    shared: bool = False

    @classmethod
    def of(cls, active: Active) -> TechniqueAccounts:
        """Of `active`, as it stands."""
        technique = active.technique
        return cls(
            technique.info.name,
            technique.params,
            active.counters,
            active.behaviour,
            active.measured(),
        )


@dataclass(frozen=True, slots=True)
class Accounts:
    """One engine.

    device, real, confidence: of the device that it ran on; ops: what each kind of op took there; bounds:
    seconds by (kind of op, what bounded it), joules_by_part: dynamic energy by part, both of a modelled
    device; drafting: data-dependent quantities of its drafter (None: it has none). preemptions,
    prefix_hit_tokens: since the engine was made.
    """

    device: str
    real: bool
    confidence: Confidence
    ops: dict[str, OpTotals]
    totals: EngineTotals
    memory: MemoryPlan
    derived: dict[str, object]
    techniques: Sequence[TechniqueAccounts]
    preemptions: int
    prefix_hit_tokens: int
    drafting: dict[str, float] | None = None
    bounds: dict[tuple[str, str], float] = field(default_factory=dict)
    joules_by_part: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, engine: Engine) -> Accounts:
        """Of `engine`, as it stands."""
        device, drafter = engine.device, engine.drafter
        modelled = device if isinstance(device, ModelledDevice) else None
        return cls(
            device.name,
            device.real,
            device.confidence,
            device.totals,
            engine.totals,
            engine.memory,
            engine.derived,
            [TechniqueAccounts.of(active) for active in engine.actives],
            engine.scheduler.num_preempted,
            engine.scheduler.blocks.hit_tokens,
            None if drafter is None else drafter.measured(engine.totals),
            {} if modelled is None else dict(modelled.bounds),
            {} if modelled is None else modelled.joules_by_part,
        )
