"""What techniques share that compute exact attention in an order of their own: one op replaces another."""

from __future__ import annotations

from dataclasses import dataclass

from twofold.models.attending import Attending
from twofold.models.cache import Heads
from twofold.models.spec import ModelSpec
from twofold.models.step import StepInput
from twofold.ops.attention import Attention
from twofold.techniques.attention import schedules_native  # noqa: F401  (fills the registry of kernels)
from twofold.techniques.base import Technique
from twofold.techniques.requirements import require_global_layer


@dataclass(frozen=True)
class ScheduleTechnique(Technique):
    """An order of computing exact attention: subclasses say by which op."""

    def op(self, plain: Attention, step: StepInput) -> Attention:
        """The op that computes what `plain` does, for the spans of `step`."""
        raise NotImplementedError

    def check(self, spec: ModelSpec) -> None:
        """Some layer must attend to the whole context, by keys and values."""
        require_global_layer(self.info.name, spec)

    def attending_scheme(self) -> ScheduleScheme:
        """This order for all layers that see the whole context."""
        return ScheduleScheme(self)


class ScheduleScheme:
    """All layers without a window follow `schedule`. counters: the ops that were made for it."""

    def __init__(self, schedule: ScheduleTechnique) -> None:
        self.schedule = schedule
        self.counters = {"ops_made": 0}

    def attending(self, heads: Heads, layer: int) -> Scheduled | None:
        """Attention by the schedule; None for a layer with a window, which attends as usual."""
        del layer
        return None if heads.window is not None else Scheduled(self.schedule, self.counters)


class Scheduled(Attending):
    """Attention of a layer by the op of a schedule."""

    def __init__(self, schedule: ScheduleTechnique, counters: dict[str, int]) -> None:
        self.schedule, self.counters = schedule, counters

    @property
    def cost_key(self) -> object:
        """The schedule."""
        return Scheduled, self.schedule

    def op(self, plain: Attention, step: StepInput) -> Attention:
        """The schedule's op."""
        self.counters["ops_made"] += 1
        return self.schedule.op(plain, step)
