"""What every op is: a frozen dataclass of shapes and formats that counts its own cost.

An op never holds tensors. A real device looks up a kernel for the op's type and runs it on the tensors that
are passed beside the op; a modelled device charges `cost()` and lets a virtual clock advance. Counting is
exact
arithmetic on shapes: nothing in an op is fitted, and no op knows a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

Role = Literal["weights", "cache", "activations"]
Precision = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp6", "fp4", "int8", "int4", "int1"]

# Memory spaces an op can touch. "device" is the memory beside the compute units (HBM, DRAM of a CPU, PIM
# banks).
DEVICE = "device"
HOST = "host"
DISK = "disk"


class Traffic(NamedTuple):
    """Bytes that an op moves between its compute units and one memory space, for one role of data."""

    role: Role
    read: float
    written: float = 0.0
    space: str = DEVICE


@dataclass(frozen=True, slots=True)
class Cost:
    """What one execution of an op takes, counted.

    flop: matrix FLOP (a multiply-accumulate is two), as `torch.utils.flop_counter.FlopCounterMode` counts
    them.
    vector_flop: elementwise arithmetic, which runs outside the matrix units and which that counter does not
    count.
    precision: the precision in which the matrix FLOP are done.
    traffic: bytes read and written by role and memory space.
    sent: bytes that each participant sends over the link between devices.
    """

    flop: float = 0.0
    vector_flop: float = 0.0
    precision: Precision = "fp32"
    traffic: tuple[Traffic, ...] = ()
    sent: float = 0.0

    @property
    def bytes_read(self) -> float:
        """Bytes read from all memory spaces."""
        return sum(t.read for t in self.traffic)

    @property
    def bytes_written(self) -> float:
        """Bytes written to all memory spaces."""
        return sum(t.written for t in self.traffic)

    @property
    def bytes_moved(self) -> float:
        """Bytes read plus bytes written."""
        return sum([t.read + t.written for t in self.traffic])


@dataclass(frozen=True, slots=True)
class Op:
    """Base of all ops. `kind` groups ops in breakdowns; `outputs` is the number of tensors a kernel
    returns."""

    kind: ClassVar[str] = "op"
    outputs: ClassVar[int] = 1

    def cost(self) -> Cost:
        """The cost of one execution, counted from the op's shapes and formats."""
        raise NotImplementedError(f"{type(self).__name__} does not count its cost")
