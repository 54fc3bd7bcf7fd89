"""What a device is: the thing that executes ops. Real ones compute; modelled ones charge a virtual clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from twofold.devices.clock import Clock
from twofold.ops.base import Op, Precision

Confidence = Literal["measured", "calibrated", "datasheet"]


class Layer(Protocol):
    """Anything that is run once per transformer layer. Layers of equal signature emit equal ops for equal
    batches."""

    @property
    def signature(self) -> object:
        """Hashable; equal for layers that cost the same."""


LayerT = TypeVar("LayerT", bound=Layer)


@dataclass(slots=True)
class OpTotals:
    """What was spent on one kind of op: executions, seconds, joules, and counted work."""

    calls: int = 0
    seconds: float = 0.0
    joules: float = 0.0
    flop: float = 0.0
    vector_flop: float = 0.0
    bytes_moved: float = 0.0
    sent: float = 0.0


@dataclass(slots=True)
class StepCost:
    """One step: `seconds` from dispatch to result; `stages`: seconds per pipeline stage; `joules` where they
    are known."""

    seconds: float = 0.0
    joules: float | None = None
    stages: list[float] = field(default_factory=list)


class Device(ABC):
    """Executes ops.

    real: tensors are computed and time passes by itself; otherwise `execute` returns None per output and time
    is charged.
    memory: capacity in bytes by memory space ("device", "host", "disk"). native_precision: of activations
    where a plan leaves it open. resident_bytes: weights and cache of the deployed model; a cached memory
    system streams by its size. linkable: whether several of them can serve one model.
    totals: work and time by op kind since the last `reset_totals` (a real device fills seconds only while
    profiling).
    """

    name: str
    real: bool
    clock: Clock
    memory: dict[str, int]
    confidence: Confidence
    native_precision: Precision = "bf16"
    resident_bytes: int = 0
    linkable: bool = False

    def __init__(self) -> None:
        self.totals: dict[str, OpTotals] = {}

    @abstractmethod
    def execute(self, op: Op, *args: Any) -> Any:
        """Run `op` on `args` (tensors or views of caches). Returns what its kernel returns: a tensor or a
        tuple of `op.outputs` tensors on a real device, None or a tuple of Nones on a modelled one."""

    @abstractmethod
    def each(self, layers: Sequence[LayerT]) -> Iterator[LayerT]:
        """The layers to walk through in a forward pass: all of them on a real device; on a modelled one, one
        of each signature, its ops charged as often as the signature occurs."""

    @abstractmethod
    def begin_step(self) -> None:
        """Start collecting the cost of a step."""

    @abstractmethod
    def end_step(self) -> StepCost:
        """Finish the step: wait until a real device has computed it. Returns what it took; the caller lets a
        virtual clock advance, since steps of a pipeline overlap."""

    def reset_totals(self) -> None:
        """Forget the collected totals."""
        self.totals = {}
