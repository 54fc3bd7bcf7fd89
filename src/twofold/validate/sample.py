"""One measured figure beside what is predicted of it: what validation is made of."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

Quantity = Literal["op", "ttft", "tpot", "e2e", "throughput", "energy", "memory"]

LEARNED = "learned"
"""The label of what a model predicts that is only there for comparison: no interval follows from it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A measurement and its prediction, both in `unit`.

    group: table it belongs to; case: what was measured, readable and unique in the group; device, generation,
    precision: of the hardware and of the products, for intervals that widen with distance. fitted: whether
    the point helped to choose any parameter. label: confidence of the prediction. model: of the language
    model or of the family of ops; points of one group, device and model are judged by the others, since their
    errors go together. tokens: rows of an op, or sequences in flight; context: tokens of one sequence; None
    where they say nothing of how large the case is.
    """

    group: str
    case: str
    quantity: Quantity
    unit: str
    measured: float
    predicted: float
    device: str
    generation: str
    precision: str
    fitted: bool
    label: str
    model: str = ""
    tokens: float | None = None
    context: float | None = None

    @property
    def fold(self) -> tuple[str, str, str]:
        """What is left out together in cross-validation."""
        return self.group, self.device, self.model

    @property
    def has_interval(self) -> bool:
        """Whether predictions like this one come with an interval: memory is counted."""
        return self.quantity != "memory" and self.label != LEARNED

    @property
    def error(self) -> float:
        """Relative error, signed: +0.1 is a prediction 10 % too high."""
        return self.predicted / self.measured - 1.0

    @property
    def residual(self) -> float:
        """ln(measured / predicted): what an interval around the prediction has to cover."""
        return log(self.measured / self.predicted)
