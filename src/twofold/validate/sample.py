"""One measured figure beside what is predicted of it: what validation is made of."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

Quantity = Literal["op", "ttft", "tpot", "e2e", "throughput", "energy", "memory"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A measurement and its prediction, both in `unit`.

    group: table it belongs to; case: what was measured, readable and unique in the group; device, generation,
    precision: of the hardware and of the products, for intervals that widen with distance. fitted: whether
    the point helped to choose any parameter. label: confidence of the prediction.
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

    @property
    def error(self) -> float:
        """Relative error, signed: +0.1 is a prediction 10 % too high."""
        return self.predicted / self.measured - 1.0

    @property
    def residual(self) -> float:
        """ln(measured / predicted): what an interval around the prediction has to cover."""
        return log(self.measured / self.predicted)
