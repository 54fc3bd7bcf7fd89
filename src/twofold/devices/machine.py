"""The base of machines that map ops in their own way: processing in memory, systolic arrays, wafers, FPGAs.

A machine is put together from `devices.parts`. It says what a product, an attention and a cache write take,
as `Work` of its parts; what touches each activation a few times goes to its vector unit. Its figures are one
frozen dataclass (of dataclasses) of numbers, so that each can be changed by its path: that is how the tests
find out that more never hurts, and the documentation what matters most.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Self

from twofold.devices.base import Confidence
from twofold.devices.links import Group, Link, collective_seconds
from twofold.devices.modelled import Charge, ModelledDevice
from twofold.devices.parts.arithmetic import arithmetic_of
from twofold.devices.parts.work import PARTS, Work
from twofold.errors import nearest
from twofold.ops import Attention, CacheWrite, Collective, Copy, Embedding, ExpertMLP, Linear, Op
from twofold.ops.base import DEVICE, Cost, Precision


@dataclass(frozen=True, slots=True)
class Peaks:
    """What a machine never exceeds, for weights and cache in its own memories.

    bytes_per_second: at which its arithmetic can be fed from the fastest memory that holds weights or cache;
    flop_per_second: by precision of the products; joules_per_byte: of reading the cheapest such memory;
    joules_per_flop: of the cheapest product.
    """

    bytes_per_second: float
    flop_per_second: Mapping[Precision, float]
    joules_per_byte: float = 0.0
    joules_per_flop: float = 0.0


class Machine(ModelledDevice):
    """A modelled machine with figures of its own.

    title, kind, source, note: what it is, as lists show it; precisions: of activations and products, the
    native one first; sources: where figures come from, by path; more: paths of figures of which more never
    makes an op slower; most: how many can be linked by tensor parallelism.
    figures: the machine in numbers; link: between machines, for `most` > 1.
    """

    title: ClassVar[str]
    kind: ClassVar[str]
    source: ClassVar[str]
    note: ClassVar[str] = "not validated by measurement"
    precisions: ClassVar[tuple[Precision, ...]] = ("bf16",)
    sources: ClassVar[Mapping[str, str]] = {}
    more: ClassVar[tuple[str, ...]] = ()
    most: ClassVar[int] = 1
    confidence: Confidence = "datasheet"
    link_joules: float = 0.0

    def __init__(
        self,
        figures: Any,
        *,
        memory: int,
        idle_watts: float,
        tp: int = 1,
        link: Link | None = None,
        step_overhead: float = 0.0,
    ) -> None:
        """memory: bytes for weights and cache (`cache_memory` where the cache has a memory of its own); tp:
        machines that share a model, all of which burn `idle_watts`."""
        if tp > self.most:
            one = "is a single machine; it has no tp, pp or dp"
            raise ValueError(
                f"{self.name} {one if self.most == 1 else f'is linked at most {self.most} times'}"
            )
        assert tp == 1 or link is not None
        super().__init__(idle_watts=idle_watts * tp, ranks=tp, step_overhead=step_overhead)
        self.figures = figures
        self.memory = {DEVICE: memory}
        self.linkable = self.most > 1
        self.native_precision = self.precisions[0]
        self.num_devices = tp
        self._group = Group(tp, 1, link)

    @classmethod
    def make(cls, figures: Any = None, *, tp: int = 1) -> Self:
        """The machine with its own or other figures: what every subclass's constructor takes."""
        return cls(figures, tp=tp)  # type: ignore[call-arg]

    # --- what a machine says of itself ---

    @abstractmethod
    def peaks(self) -> Peaks:
        """What it never exceeds."""

    def describe(self) -> dict[str, object]:
        """Name, kind, source, confidence, memory, figures by path, and where they come from."""
        return {
            "name": self.name,
            "title": self.title,
            "kind": self.kind,
            "source": self.source,
            "confidence": self.confidence,
            "note": self.note,
            "memory": dict(self.memory),
            "figures": numbers(self.figures),
            "sources": dict(self.sources),
        }

    # --- what ops take ---

    def charge(self, op: Op, cost: Cost) -> Charge:
        """Seconds and joules of `op`; ValueError for one that the machine cannot execute."""
        del cost
        work = self.work(op)
        bound = PARTS.get(work.bound, "compute")
        return Charge(work.seconds, work.total_joules, bound, tuple(work.joules.items()), self.unit(op))

    def work(self, op: Op) -> Work:
        """What `op` takes of the machine's parts."""
        match op:
            case Linear():
                return self.linear(op)
            case Attention():
                return self.attention(op)
            case CacheWrite():
                return self.cache_write(op)
            case ExpertMLP():
                return self.experts(op)
            case Embedding():
                return self.embedding(op)
            case Collective():
                return self.collective(op)
            case Copy():
                return self.copy(op)
        if arithmetic_of(op) is None:
            raise self.refusal(op, "it has no mapping of this op")
        return self.elementwise(op)

    @abstractmethod
    def linear(self, op: Linear) -> Work:
        """A product with stored weights."""

    @abstractmethod
    def attention(self, op: Attention) -> Work:
        """Attention over the cache. Not every subclass of the op computes what its base does: refuse what the
        machine cannot skip."""

    @abstractmethod
    def cache_write(self, op: CacheWrite) -> Work:
        """New keys and values into the cache."""

    @abstractmethod
    def embedding(self, op: Embedding) -> Work:
        """Rows of the embedding table."""

    @abstractmethod
    def elementwise(self, op: Op) -> Work:
        """An op of which `arithmetic_of` knows the arithmetic."""

    def experts(self, op: ExpertMLP) -> Work:
        """MLPs of routed experts."""
        raise self.refusal(op, "it has no mapping of experts; plan a dense model")

    def copy(self, op: Copy) -> Work:
        """Data from one memory space to another."""
        raise self.refusal(op, f"it has no memory {op.source!r} beside {op.target!r}")

    def collective(self, op: Collective) -> Work:
        """A message among linked machines."""
        if self._group.size == 1:
            raise self.refusal(op, "it stands alone")
        joules = op.cost().sent * self.link_joules
        return Work.of("link", collective_seconds(op, self._group), joules)

    def unit(self, op: Op) -> str:
        """Which of the machine's units an op takes, where several can work at the same time on different
        requests (see `ModelledDevice.overlapped`); empty where they cannot."""
        del op
        return ""

    def refusal(self, op: Op, why: str) -> ValueError:
        """The error for an op that it cannot execute."""
        return ValueError(f"{self.name} cannot execute {type(op).__name__}: {why}")

    def check_precision(self, op: Linear | Attention | ExpertMLP) -> None:
        """ValueError where the products of `op` are in none of the machine's precisions."""
        if op.compute not in self.precisions:
            raise self.refusal(
                op,
                f"its products are in {op.compute}, not one of {', '.join(self.precisions)}; plan with "
                f"precision {self.precisions[0]}",
            )


def numbers(figures: Any, path: str = "") -> dict[str, float]:
    """Every number in a dataclass of dataclasses, by dotted path."""
    found: dict[str, float] = {}
    for field in fields(figures):
        value, name = getattr(figures, field.name), f"{path}.{field.name}" if path else field.name
        if is_dataclass(value):
            found |= numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


def with_number(figures: Any, path: str, value: float) -> Any:
    """`figures` with the number at `path` replaced; a whole number stays one. ValueError for a path that is
    not there."""
    name, _, rest = path.partition(".")
    known = [field.name for field in fields(figures)]
    if name not in known:
        raise ValueError(f"no figure {name!r}; {nearest(name, known)}")
    old = getattr(figures, name)
    if rest:
        return replace(figures, **{name: with_number(old, rest, value)})
    return replace(figures, **{name: max(1, round(value)) if isinstance(old, int) else value})


def sourced(paths: Iterable[str], sources: Mapping[str, str]) -> dict[str, str]:
    """The source of each path: its own entry, or the one of the longest part before a dot; an entry may name
    several paths, with commas. Paths without one are left out."""
    single = {name: source for names, source in sources.items() for name in names.split(", ")}
    found = {}
    for path in paths:
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            if (source := single.get(".".join(parts[:length]))) is not None:
                found[path] = source
                break
    return found
