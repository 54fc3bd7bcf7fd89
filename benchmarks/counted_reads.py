"""Bytes of weights and cache that a step has to read, counted by its ops. Activations, which stay in the
inner caches, are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from twofold.devices.base import Device, LayerT, StepCost
from twofold.models.step import StepInput
from twofold.models.transformer import Transformer
from twofold.ops.attention import Span
from twofold.ops.base import Op


class _Counter(Device):
    """Runs nothing and adds up what ops would read."""

    name, real = "counter", False

    def __init__(self) -> None:
        super().__init__()
        self.read = 0.0

    def execute(self, op: Op, *args: Any) -> Any:
        self.read += sum(t.read for t in op.cost().traffic if t.role in ("weights", "cache"))
        return None if op.outputs == 1 else (None,) * op.outputs

    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        return iter(layers)

    def begin_step(self) -> None:
        pass

    def end_step(self) -> StepCost:
        return StepCost()


def counted_reads(model: Transformer, spans: Sequence[tuple[int, int]]) -> float:
    """Bytes read by one step of sequences of (new tokens, visible keys), one logit row each."""
    counter = _Counter()
    step = StepInput([Span(q, k) for q, k in spans], sum(q for q, _ in spans), len(spans))
    model.forward(step, counter)
    return counter.read
