"""What techniques share that compute exact attention in an order of their own: an op in the place of one."""

from __future__ import annotations

from typing import Protocol

from twofold.models.attending import Attending
from twofold.models.cache import Heads
from twofold.models.step import StepInput
from twofold.ops.attention import Attention


class Schedule(Protocol):
    """An order of computing attention; hashable."""

    def op(self, plain: Attention, step: StepInput) -> Attention:
        """The op that computes what `plain` does, for the spans of `step`."""


class ScheduleScheme:
    """All layers without a window follow `schedule`. counters: the ops that were made for it."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.counters = {"ops_made": 0}

    def attending(self, heads: Heads, layer: int) -> Scheduled | None:
        """That schedule; a layer with a window attends as usual."""
        del layer
        return None if heads.window is not None else Scheduled(self.schedule, self.counters)


class Scheduled(Attending):
    """Attention by the op of a schedule."""

    def __init__(self, schedule: Schedule, counters: dict[str, int]) -> None:
        self.schedule, self.counters = schedule, counters

    @property
    def cost_key(self) -> object:
        """The schedule."""
        return Scheduled, self.schedule

    def op(self, plain: Attention, step: StepInput) -> Attention:
        """The schedule's op."""
        self.counters["ops_made"] += 1
        return self.schedule.op(plain, step)
