"""The baseline, measured in turn with what is compared with it.

A machine that others use too is faster and slower from minute to minute, and a comparison takes minutes:
against a baseline that was measured first, each row would be told how the machine did since. So the baseline
stays loaded and is played after every play of a row.
"""

from __future__ import annotations

from typing import Self

from twofold.engine.build import Progress
from twofold.jobs.predict import label_of
from twofold.jobs.result import make_result
from twofold.jobs.run import load_engine, play, unmodified, warm_up
from twofold.models.tensors import Checkpoint
from twofold.plan import Plan
from twofold.report.schema import Result
from twofold.workloads.workload import make_workload

SHARE_OF_MEMORY = 0.25
"""What the baseline may take of the machine's memory and stay loaded: a row can need as much, and more while
it transforms weights."""


def can_stay(plan: Plan, baseline: Result) -> bool:
    """Whether the unmodified model, measured as `baseline`, can stay loaded beside others: not on a GPU,
    where an engine's cache takes all the memory there is, and not over several processes."""
    capacity = baseline.memory.capacity
    if plan.device != "cpu" or plan.parallel.tp > 1 or capacity is None:
        return False
    return baseline.memory.total.mid <= SHARE_OF_MEMORY * capacity.mid


class Companion:
    """The unmodified model of `plan`, loaded, warm, and timed op by op as rows are."""

    def __init__(self, plan: Plan, checkpoint: Checkpoint, progress: Progress | None = None) -> None:
        self._plan = unmodified(plan)
        self._workload = make_workload(
            plan.workload, checkpoint.tokenizer, real=True, vocab=checkpoint.spec.vocab_size
        )
        self._engine = load_engine(self._plan, checkpoint, profile=True, progress=progress)
        warm_up(self._engine, self._workload)

    def play(self) -> Result:
        """Plays the workload once, from an empty cache."""
        played = play(self._engine, self._workload)
        result = make_result(
            self._plan,
            self._engine.accounts(),
            played,
            self._workload,
            label=label_of(self._plan),
            model=self._plan.model,
        )
        self._engine.forget_cached()
        return result

    def close(self) -> None:
        """Releases the engine."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
