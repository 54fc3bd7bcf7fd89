"""What a device is: the thing that executes ops. Real ones compute; modelled ones charge a virtual clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from twofold.devices.clock import Clock
from twofold.ops.base import Op, Precision

if TYPE_CHECKING:
    from twofold.models.cache import CacheLayer
    from twofold.models.step import StepInput

LOCAL_STEP_TOKENS = 512
"""Tokens of a step on a machine that one person uses: a prompt in pieces short enough to let others in."""
LOCAL_CACHE_TOKENS = 16_384
"""Tokens that such a machine caches: enough for every default, little to allocate."""

Confidence = Literal["measured", "calibrated", "datasheet"]


class Layer(Protocol):
    """Anything that is run once per transformer layer. Layers of equal signature emit equal ops for equal
    batches."""

    @property
    def signature(self) -> object:
        """Hashable; equal for layers that cost the same."""


class Model(Protocol):
    """Anything with a forward pass written on ops."""

    def forward(self, step: StepInput, device: Device) -> Any:
        """Logits of `step`, computed or charged by `device`."""


LayerT = TypeVar("LayerT", bound=Layer)
T = TypeVar("T")


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

    def each(self) -> OpTotals:
        """The mean of one execution."""
        values = [getattr(self, name) / max(1, self.calls) for name in self.__slots__[1:]]
        return OpTotals(1, *values)


@dataclass(slots=True)
class StepCost:
    """One step: `seconds` from dispatch to result; `stages`: seconds per pipeline stage; `joules` where they
    are known; `launches`: ops that a modelled device executed, over all layers and stages (0 on a real one).
    """

    seconds: float = 0.0
    joules: float | None = None
    stages: list[float] = field(default_factory=list)
    launches: int = 0

    def beside(self, other: StepCost, idle_watts: float) -> StepCost:
        """This while `other` goes on, which takes other parts of the device; both count `idle_watts`."""
        stages = [max(self.stages[0], other.seconds), *self.stages[1:]]
        seconds = max(self.seconds, other.seconds)
        joules = None
        if self.joules is not None and other.joules is not None:
            joules = self.joules + other.joules - idle_watts * min(self.seconds, other.seconds)
        return StepCost(seconds, joules, stages, self.launches + other.launches)

    def then(self, other: StepCost) -> StepCost:
        """`other` begun once this is done, which took one device."""
        stages = [self.seconds + other.stages[0], *other.stages[1:]] if other.stages else [self.seconds]
        joules = None if self.joules is None or other.joules is None else self.joules + other.joules
        return StepCost(self.seconds + other.seconds, joules, stages, self.launches + other.launches)


class Device(ABC):
    """Executes ops.

    real: tensors are computed and time passes by itself; otherwise `execute` returns None per output and time
    is charged.
    memory: capacity in bytes by memory space ("device", "host", "disk"). native_precision: of activations
    where a plan leaves it open. rank, ranks: which one of how many it is that share a model by tensor
    parallelism, on a real device; a modelled one stands for rank 0, whose share is the largest.
    resident_bytes: weights of the deployed model; a cached memory system streams by its size. linkable:
    whether several of them can serve one model. cache_format: of cache entries where a plan leaves it
    open; None is the activations' precision. stored_weights: whether quantised weights stay as a
    checkpoint stores them where a plan leaves it open. step_tokens: tokens computed in a step where a
    plan leaves it open. cache_memory: bytes of a memory of their own that cache entries lie in (None:
    they share the weights'). cache_tokens: most tokens that are cached where a plan names no memory;
    None: as many as fit. page_bytes: the least memory that can be mapped by itself (through CUDA: 2 MiB).
    totals: work and time by op kind since the last `reset_totals` (a real device fills seconds only while
    profiling). reference_ops: executions of ops, by name, that had no native kernel where others have
    one.
    """

    name: str
    real: bool
    clock: Clock
    memory: dict[str, int]
    confidence: Confidence
    native_precision: Precision = "bf16"
    rank: int = 0
    ranks: int = 1
    resident_bytes: int = 0
    linkable: bool = False
    cache_format: str | None = None
    stored_weights: bool = False
    step_tokens: int = 2048
    cache_tokens: int | None = None
    cache_memory: int | None = None
    page_bytes: int = 2 << 20

    def __init__(self) -> None:
        self.totals: dict[str, OpTotals] = {}
        self.reference_ops: Counter[str] = Counter()

    @abstractmethod
    def execute(self, op: Op, *args: Any) -> Any:
        """Run `op` on `args` (tensors or views of caches). Returns what its kernel returns: a tensor or a
        tuple of `op.outputs` tensors on a real device, None or a tuple of Nones on a modelled one."""

    def forward(self, model: Model, step: StepInput) -> Any:
        """Run `model` on `step`, op by op or in any faster way that gives the same. Returns its logits
        [step.num_logits, vocab], which are valid until the next step; None on a modelled device."""
        return model.forward(step, self)

    def attend(self, cache: CacheLayer, step: StepInput, q: Any, k: Any, v: Any, *inputs: Any) -> Any:
        """Let `cache` append keys and values and attend over them, by ops of its choice. inputs: see
        `CacheLayer.wants_inputs`. Returns what `cache.attend` does."""
        out = cache.attend(self, step, q, k, v, *inputs)
        if step.written is not None:
            step.written(cache)
        return out

    def whole(self, function: Callable[[], T]) -> T:
        """The result of `function`, which executes ops that depend on data: where steps are recorded, it is
        kept as one call."""
        return function()

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

    def settings(self) -> dict[str, object]:
        """What a user may want to know of how it executes ops, by name."""
        return {}

    def reset_totals(self) -> None:
        """Forget the collected totals."""
        self.totals = {}
        self.reference_ops.clear()
